//! A small type tree with all that the kernel's has: typedefs, qualifiers, anonymous members, bit
//! fields, arrays.
use proptest::prelude::*;

use super::*;

/// Builds BTF: strings and types are appended, ids count from 1.
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    n_types: u32,
}

impl Builder {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], n_types: 0 }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn add(&mut self, name: &str, info: u32, size_or_type: u32, more: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, info, size_or_type].iter().chain(more) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self.n_types += 1;
        self.n_types
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.add(name, INT << 24, bytes, &[bytes * 8])
    }

    /// Members are name, type id and offset in bits.
    fn composite(&mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let words: Vec<u32> =
            members.iter().flat_map(|&(name, id, bits)| [self.string(name), id, bits]).collect();
        self.add(name, kind << 24 | members.len() as u32, size, &words)
    }

    fn build(&self) -> Vec<u8> {
        let mut out = MAGIC.to_ne_bytes().to_vec();
        out.extend_from_slice(&[1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            out.extend_from_slice(&u32::to_ne_bytes(word));
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        out
    }
}

/// As Linux 6.18 lays it out, with `cb` and `bytes_acked` inside anonymous members.
fn kernel() -> Vec<u8> {
    let mut btf = Builder::new();
    let char = btf.int("char", 1);
    let int = btf.int("int", 4);
    let u64 = btf.int("unsigned long long", 8);
    let typedef = btf.add("u64", TYPEDEF << 24, u64, &[]);
    let constant = btf.add("", CONST << 24, typedef, &[]);
    let block = btf.add("", ARRAY << 24, 0, &[char, int, 48]);
    btf.add("other", ENUM << 24 | 1, 4, &[0, 7]);
    btf.add("wide", ENUM64 << 24 | 1, 8, &[0, 7, 0]);
    btf.add("", FUNC_PROTO << 24 | 1, int, &[0, int]);
    let parts = btf.composite(STRUCT, "", 56, &[("mark", int, 0), ("cb", block, 64)]);
    btf.composite(STRUCT, "sk_buff", 232, &[("len", int, 0), ("", parts, 32 * 8)]);
    let msg = [("full_len", int, 0), ("offset", int, 32)];
    let msg = btf.composite(STRUCT, "strp_msg", 8, &msg);
    let outer = btf.composite(STRUCT, "_strp_msg", 12, &[("strp", msg, 0)]);
    let data = btf.add("", ARRAY << 24, 0, &[char, int, 24]);
    btf.composite(STRUCT, "sk_skb_cb", 48, &[("data", data, 0), ("strp", outer, 24 * 8)]);
    let union = btf.composite(UNION, "", 8, &[("bytes_acked", constant, 0)]);
    btf.composite(STRUCT, "tcp_sock", 2000, &[("", union, 1400 * 8)]);
    btf.build()
}

#[test]
fn finds_fields_through_typedefs_and_anonymous_members() {
    let bytes = kernel();
    let offsets = Offsets::find(&Btf::parse(&bytes).unwrap()).unwrap();
    let expected = Offsets { strp_full_len: 40 + 24, strp_offset: 40 + 28, bytes_acked: 1400 };
    assert_eq!(offsets, expected);
}

#[test]
fn says_what_is_missing_or_of_another_width() {
    let mut btf = Builder::new();
    let int = btf.int("int", 4);
    btf.composite(STRUCT, "tcp_sock", 8, &[("bytes_acked", int, 0)]);
    let flags = btf.string("flags");
    btf.add("s", 1 << 31 | STRUCT << 24 | 1, 4, &[flags, int, 3 << 24 | 8]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    let missing = |path: &str| BtfError::Missing(path.to_owned());
    assert_eq!(btf.field("sk_buff", &["cb"]), Err(missing("sk_buff.cb")));
    assert_eq!(btf.field("tcp_sock", &["cb"]), Err(missing("tcp_sock.cb")));
    assert_eq!(btf.field("s", &["flags"]), Err(missing("s.flags")), "a bit field");
    let through_int = btf.field("tcp_sock", &["bytes_acked", "x"]);
    assert_eq!(through_int, Err(missing("tcp_sock.bytes_acked.x")));
    let field = btf.field("tcp_sock", &["bytes_acked"]).unwrap();
    let width = field.exactly(8, "tcp_sock.bytes_acked").unwrap_err();
    assert_eq!(width.to_string(), "tcp_sock.bytes_acked has 4 bytes, not 8");
}

#[test]
fn types_that_contain_themselves_are_not_followed_for_ever() {
    let mut btf = Builder::new();
    btf.composite(STRUCT, "sk_buff", 8, &[("", 1, 0)]);
    let typedef = btf.add("loop", TYPEDEF << 24, 2, &[]);
    btf.composite(STRUCT, "tcp_sock", 8, &[("bytes_acked", typedef, 0)]);
    btf.add("", ARRAY << 24, 0, &[4, 4, 2]);
    btf.composite(STRUCT, "s", 8, &[("a", 4, 0)]);
    let bytes = btf.build();
    let btf = Btf::parse(&bytes).unwrap();
    assert!(btf.field("sk_buff", &["cb"]).is_err());
    assert!(btf.field("tcp_sock", &["bytes_acked"]).is_err());
    assert!(btf.field("s", &["a"]).is_err());
}

#[test]
fn a_cut_file_is_an_error() {
    let bytes = kernel();
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn the_running_kernel_is_understood() {
    match Offsets::of_kernel() {
        Ok(offsets) => {
            assert_eq!(offsets.strp_offset, offsets.strp_full_len + 4);
            assert!(offsets.bytes_acked > 500, "{offsets:?}");
        }
        Err(why) => println!("skipped: {why}"),
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(changes in prop::collection::vec((0_usize..1000, any::<u8>()), 1..8)) {
        let mut bytes = kernel();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(btf) = Btf::parse(&bytes) {
            let _ = Offsets::find(&btf);
        }
    }
}
