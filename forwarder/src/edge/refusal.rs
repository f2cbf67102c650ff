//! How an origin's no is told to whom it concerns.

use crate::conn::Refusal;

/// An origin's word to a pull, for players.
pub(super) fn of_play(refusal: &Refusal) -> Refusal {
    told("NetStream.Play.", "NetStream.Play.Failed", refusal)
}

/// An origin's word to a relay, for the publisher.
pub(super) fn of_publish(refusal: &Refusal) -> Refusal {
    told("NetStream.Publish.", "NetStream.Publish.Denied", refusal)
}

/// Codes that clients expect there pass; others, such as those about `connect`, are replaced.
fn told(expected: &str, otherwise: &str, refusal: &Refusal) -> Refusal {
    let code = if refusal.code.starts_with(expected) { &*refusal.code } else { otherwise };
    let clean = refusal.description.replace(char::is_control, " ");
    Refusal::new(code, clean.chars().take(MAX_DESCRIPTION).collect::<String>())
}

/// Characters of a description that are passed on.
const MAX_DESCRIPTION: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_clients_know_pass() {
        for (code, to_player, to_publisher) in [
            (
                "NetStream.Play.StreamNotFound",
                "NetStream.Play.StreamNotFound",
                "NetStream.Publish.Denied",
            ),
            ("NetStream.Publish.BadName", "NetStream.Play.Failed", "NetStream.Publish.BadName"),
            ("NetConnection.Connect.Rejected", "NetStream.Play.Failed", "NetStream.Publish.Denied"),
            ("close", "NetStream.Play.Failed", "NetStream.Publish.Denied"),
        ] {
            let refusal = Refusal::new(code, "no\x1b!");
            assert_eq!(of_play(&refusal), Refusal::new(to_player, "no !"));
            assert_eq!(of_publish(&refusal), Refusal::new(to_publisher, "no !"));
        }
    }
}
