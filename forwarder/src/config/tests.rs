//! What the TOML form promises.
use super::*;

#[test]
fn nothing_is_the_default() {
    assert_eq!(
        Config::from_toml("", "f.toml").expect("empty"),
        Config::default()
    );
}
