//! Tests of AMF0 values.
use std::io::Cursor as IoCursor;

use proptest::prelude::*;
use rml_amf0::Amf0Value;

use super::*;

fn read_all(body: &[u8]) -> Result<Vec<Value>, Amf0Error> {
    let mut reader = Reader::new(body);
    let mut values = Vec::new();
    while let Some(value) = reader.read()? {
        values.push(value);
    }
    assert!(reader.rest().is_empty());
    Ok(values)
}

fn written(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| write(value, &mut out));
    out
}

/// The only value of a body.
fn one(body: &[u8]) -> Value {
    let mut values = read_all(body).unwrap();
    assert_eq!(values.len(), 1);
    values.remove(0)
}

#[test]
fn every_marker() {
    let pair = || vec![("a".to_owned(), Value::Null)];
    let cases: [(&str, &[u8], Value); 17] = [
        ("number", b"\x00\x40\x08\0\0\0\0\0\0", Value::Number(3.0)),
        ("false", b"\x01\0", Value::Boolean(false)),
        ("true of any byte but 0", b"\x01\x07", Value::Boolean(true)),
        ("string", b"\x02\0\x02hi", Value::string("hi")),
        ("object", b"\x03\0\x01a\x05\0\0\x09", Value::Object(pair())),
        ("null", b"\x05", Value::Null),
        ("undefined", b"\x06", Value::Undefined),
        ("reference", b"\x07\0\0", Value::Undefined),
        ("ECMA array", b"\x08\0\0\0\x01\0\x01a\x05\0\0\x09", Value::EcmaArray(pair())),
        ("ECMA array, count 0", b"\x08\0\0\0\0\0\x01a\x05\0\0\x09", Value::EcmaArray(pair())),
        (
            "ECMA array, count too large",
            b"\x08\xff\xff\xff\xff\0\x01a\x05\0\0\x09",
            Value::EcmaArray(pair()),
        ),
        ("strict array", b"\x0a\0\0\0\x02\x05\x06", {
            Value::StrictArray(vec![Value::Null, Value::Undefined])
        }),
        ("date", b"\x0b\x40\x08\0\0\0\0\0\0\xff\xc4", Value::Date(3.0, -60)),
        ("long string", b"\x0c\0\0\0\x02hi", Value::string("hi")),
        ("unsupported", b"\x0d", Value::Undefined),
        ("XML", b"\x0f\0\0\0\x04<a/>", Value::string("<a/>")),
        ("typed object", b"\x10\0\x01C\0\x01a\x05\0\0\x09", Value::Object(pair())),
    ];
    for (name, body, value) in cases {
        assert_eq!(one(body), value, "{name}");
    }
}

#[test]
fn values_cut_off() {
    let cases: [(&str, &[u8], usize); 15] = [
        ("number", b"\x00\x40\x08", 1),
        ("boolean", b"\x01", 1),
        ("string without its length", b"\x02\0", 1),
        ("string longer than the body", b"\x02\xff\xffhi", 3),
        ("long string of 2^32 - 1", b"\x0c\xff\xff\xff\xffhi", 5),
        ("XML longer than the body", b"\x0f\0\0\0\x05<a/>", 5),
        ("date without its zone", b"\x0b\x40\x08\0\0\0\0\0\0\0", 9),
        ("reference", b"\x07\0", 1),
        ("strict array of 2^32 - 1", b"\x0a\xff\xff\xff\xff\x05", 0),
        ("strict array one short", b"\x0a\0\0\0\x02\x05", 0),
        ("key longer than the body", b"\x03\0\x09a\x05", 3),
        ("key without a value", b"\x03\0\x01a", 4),
        ("half an object end", b"\x03\0\x01a\x05\0\0", 7),
        ("inner object without end", b"\x03\0\x01a\x03\0\x01b\x05", 9),
        ("object in an array without end", b"\x0a\0\0\0\x01\x03", 6),
    ];
    for (name, body, at) in cases {
        assert_eq!(read_all(body), Err(Amf0Error::Truncated(at)), "{name}");
    }
}

#[test]
fn refused_bytes() {
    let cases: [(&str, &[u8], Amf0Error); 7] = [
        ("movie clip", b"\x04", Amf0Error::UnknownMarker(4, 0)),
        ("record set", b"\x0e", Amf0Error::UnknownMarker(14, 0)),
        ("end outside of an object", b"\x09", Amf0Error::UnknownMarker(9, 0)),
        ("no marker at all", b"\xff", Amf0Error::UnknownMarker(255, 0)),
        ("AMF3 value", b"\x05\x11\x04\x01", Amf0Error::Amf3(1)),
        ("string not UTF-8", b"\x02\0\x02\xc3\x28", Amf0Error::BadUtf8(3)),
        ("key not UTF-8", b"\x03\0\x01\xff\x05\0\0\x09", Amf0Error::BadUtf8(3)),
    ];
    for (name, body, error) in cases {
        assert_eq!(read_all(body), Err(error), "{name}");
    }
}

#[test]
fn error_repeats_and_leaves_the_rest() {
    let mut reader = Reader::new(b"\x05\x02\0\x09x");
    assert_eq!(reader.read(), Ok(Some(Value::Null)));
    for _ in 0..2 {
        assert_eq!(reader.read(), Err(Amf0Error::Truncated(4)));
        assert_eq!(reader.rest(), b"\x02\0\x09x");
    }
}

#[test]
fn object_without_end_is_taken_at_the_end_of_the_body() {
    let expected = [("a".to_owned(), Value::Null)];
    assert_eq!(one(b"\x03\0\x01a\x05"), Value::Object(expected.to_vec()));
    assert_eq!(one(b"\x08\0\0\0\x01\0\x01a\x05"), Value::EcmaArray(expected.to_vec()));
    assert_eq!(one(b"\x03"), Value::Object(vec![]));
}

#[test]
fn object_with_an_empty_key() {
    assert_eq!(one(b"\x03\0\0\x05\0\0\x09"), Value::object([("", Value::Null)]));
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| {
        let inner = (1..depth).fold(Value::StrictArray(vec![]), |value, level| match level % 3 {
            0 => Value::StrictArray(vec![value]),
            1 => Value::object([("a", value)]),
            _ => Value::EcmaArray(vec![("a".to_owned(), value)]),
        });
        written(&[inner])
    };
    assert!(read_all(&nested(MAX_DEPTH)).is_ok());
    assert!(matches!(read_all(&nested(MAX_DEPTH + 1)), Err(Amf0Error::TooDeep(_))));
    let bomb = b"\x0a\0\0\0\x01".repeat(10_000);
    assert_eq!(read_all(&bomb), Err(Amf0Error::TooDeep(MAX_DEPTH * 5)));
    let bomb = b"\x03\0\x01a".repeat(10_000);
    assert_eq!(read_all(&bomb), Err(Amf0Error::TooDeep(MAX_DEPTH * 4)));
}

#[test]
fn keys_are_limited() {
    let object = |keys: usize| {
        let body = b"\0\x01k\x05".repeat(keys);
        [&b"\x03"[..], &body, b"\0\0\x09"].concat()
    };
    assert!(read_all(&object(MAX_KEYS)).is_ok());
    assert_eq!(read_all(&object(MAX_KEYS + 1)), Err(Amf0Error::TooManyKeys(0)));
    assert_eq!(read_all(&object(50_000)), Err(Amf0Error::TooManyKeys(0)));
}

#[test]
fn values_are_limited() {
    assert_eq!(read_all(&vec![5; MAX_VALUES]).map(|v| v.len()), Ok(MAX_VALUES));
    assert_eq!(read_all(&vec![5; MAX_VALUES + 1]), Err(Amf0Error::TooManyValues(MAX_VALUES)));
    let array = |len: u32| {
        let items = vec![5; len as usize];
        [&b"\x0a"[..], &len.to_be_bytes(), &items].concat()
    };
    assert!(read_all(&array(16_383)).is_ok());
    assert_eq!(read_all(&array(16_384)), Err(Amf0Error::TooManyValues(5 + 16_383)));
    assert_eq!(read_all(&array(200_000)), Err(Amf0Error::TooManyValues(0)));
}

#[test]
fn last_of_equal_keys_wins() {
    let value = one(b"\x03\0\x01a\x05\0\x01b\x06\0\x01a\x01\x01\0\0\x09");
    assert_eq!(value.get("a"), Some(&Value::Boolean(true)));
    assert_eq!(value.get("b"), Some(&Value::Undefined));
    assert_eq!(value.get("c"), None);
    assert_eq!(Value::Null.get("a"), None);
}

#[test]
fn numbers_are_finite_or_none() {
    for n in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(Value::Number(n).as_number(), None);
    }
    assert_eq!(Value::Number(-0.5).as_number(), Some(-0.5));
    assert_eq!(Value::Boolean(true).as_bool(), Some(true));
    assert_eq!(Value::string("x").as_str(), Some("x"));
    assert_eq!((Value::Null.as_str(), Value::Null.as_bool()), (None, None));
}

#[test]
fn strings_are_written_short_or_long() {
    let string = |len: usize| Value::string("x".repeat(len));
    let short = written(&[string(65_535)]);
    assert_eq!(short[..3], [2, 0xff, 0xff]);
    let long = written(&[string(65_536)]);
    assert_eq!(long[..5], [12, 0, 1, 0, 0]);
    assert_eq!(one(&short), string(65_535));
    assert_eq!(one(&long), string(65_536));
}

#[test]
fn key_too_long_for_the_wire_is_left_out() {
    let object = Value::object([("x".repeat(65_536), Value::Null), ("b".into(), Value::Null)]);
    assert_eq!(one(&written(&[object])), Value::object([("b", Value::Null)]));
}

/// Any value, nested a few deep. NaN is left out because it does not equal itself.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any_number().prop_map(Value::Number),
        any::<bool>().prop_map(Value::Boolean),
        any::<String>().prop_map(Value::String),
        Just(Value::Null),
        Just(Value::Undefined),
        (any_number(), any::<i16>()).prop_map(|(ms, zone)| Value::Date(ms, zone)),
    ];
    nested(leaf, any::<String>().boxed())
}

/// A value that `rml_amf0` has too, with keys as it can take them.
fn any_common_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any_number().prop_map(Value::Number),
        any::<bool>().prop_map(Value::Boolean),
        any::<String>().prop_map(Value::String),
        Just(Value::Null),
        Just(Value::Undefined),
    ];
    nested(leaf, "\\PC{1,12}".boxed())
}

fn any_number() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("NaN", |n| !n.is_nan())
}

fn nested(
    leaf: impl Strategy<Value = Value> + 'static,
    key: BoxedStrategy<String>,
) -> impl Strategy<Value = Value> {
    leaf.prop_recursive(5, 64, 8, move |inner| {
        let pairs = prop::collection::vec((key.clone(), inner.clone()), 0..8);
        prop_oneof![
            pairs.clone().prop_map(Value::Object),
            pairs.prop_map(Value::EcmaArray),
            prop::collection::vec(inner, 0..8).prop_map(Value::StrictArray),
        ]
    })
}

/// The value as `rml_amf0` has it: objects unordered, no ECMA arrays.
fn to_rml(value: &Value) -> Amf0Value {
    match value {
        Value::Number(n) => Amf0Value::Number(*n),
        Value::Boolean(b) => Amf0Value::Boolean(*b),
        Value::String(s) => Amf0Value::Utf8String(s.clone()),
        Value::Object(pairs) | Value::EcmaArray(pairs) => {
            Amf0Value::Object(pairs.iter().map(|(k, v)| (k.clone(), to_rml(v))).collect())
        }
        Value::StrictArray(items) => Amf0Value::StrictArray(items.iter().map(to_rml).collect()),
        Value::Null => Amf0Value::Null,
        Value::Undefined => Amf0Value::Undefined,
        Value::Date(..) => unreachable!("rml_amf0 knows no dates"),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(values in prop::collection::vec(any_value(), 0..4)) {
        // An empty key before a value that is written as 09 does not exist: no marker is 9.
        prop_assert_eq!(read_all(&written(&values)), Ok(values));
    }

    #[test]
    fn rml_amf0_reads_what_we_write(values in prop::collection::vec(any_common_value(), 0..4)) {
        let theirs = rml_amf0::deserialize(&mut IoCursor::new(written(&values))).unwrap();
        prop_assert_eq!(theirs, values.iter().map(to_rml).collect::<Vec<_>>());
    }

    #[test]
    fn we_read_what_rml_amf0_writes(values in prop::collection::vec(any_common_value(), 0..4)) {
        let theirs: Vec<_> = values.iter().map(to_rml).collect();
        let ours = read_all(&rml_amf0::serialize(&theirs).unwrap()).unwrap();
        prop_assert_eq!(ours.iter().map(to_rml).collect::<Vec<_>>(), theirs);
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(values) = read_all(&body) {
            // As text, so that NaN equals NaN.
            let again = read_all(&written(&values)).unwrap();
            prop_assert_eq!(format!("{values:?}"), format!("{again:?}"));
        }
    }

    #[test]
    fn a_body_cut_short_does_not_panic(value in any_value(), cut in any::<prop::sample::Index>()) {
        let body = written(&[value]);
        let _ = read_all(&body[..cut.index(body.len())]);
    }
}
