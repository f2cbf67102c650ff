//! Any bytes are read as AMF0 values without harm, and a value written and read again is the same.
#![no_main]
use forwarder::rtmp::amf0::{Reader, Value, write};
use libfuzzer_sys::fuzz_target;

fn written(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(value, &mut bytes);
    bytes
}

fuzz_target!(|body: &[u8]| {
    let mut reader = Reader::new(body);
    let mut left = body.len();
    while let Ok(Some(value)) = reader.read() {
        assert!(reader.rest().len() < left, "a value of no bytes");
        left = reader.rest().len();
        let bytes = written(&value);
        let mut again = Reader::new(&bytes);
        let value = again.read().expect("what we write we can read").expect("a value");
        assert!(again.rest().is_empty(), "one value, read whole");
        // bytes, since not-a-number is not equal to itself
        assert_eq!(written(&value), bytes);
    }
});
