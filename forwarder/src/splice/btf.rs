//! Where the running kernel keeps the fields that the program reads, from its own type information.
//!
//! The program reads three fields whose offsets differ between kernels and that no helper gives.
//! BTF (kernel documentation, "BPF Type Format") says where they are; this reads the little of it
//! that takes. It is total: whatever the bytes, the answer is an offset or an error.
use std::fs;

use thiserror::Error;

/// The kernel's own type information.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offsets in bytes that the program needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// From `sk_buff` to `strp_msg.full_len`.
    pub strp_full_len: u32,
    /// From `sk_buff` to `strp_msg.offset`.
    pub strp_offset: u32,
    /// From `tcp_sock` to `bytes_acked`.
    pub bytes_acked: u32,
}

/// Why there are no offsets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BtfError {
    /// The file is not there or may not be read.
    #[error("no {VMLINUX}: {0}")]
    Unreadable(String),
    /// Not BTF of version 1 in this machine's byte order.
    #[error("{VMLINUX} is not BTF version 1 of this machine")]
    Header,
    /// A section or type ends outside of the file, or its kind is not known.
    #[error("{VMLINUX} is damaged at byte {0}")]
    Damaged(usize),
    /// The kernel has no such field, or not as plain bytes.
    #[error("this kernel has no {0}")]
    Missing(String),
    /// The field is not as wide as the program reads it.
    #[error("{field} has {bytes} bytes, not {expected}")]
    Width {
        /// The field as asked for.
        field: String,
        /// Its size.
        bytes: u32,
        /// What the program reads.
        expected: u32,
    },
}

impl Offsets {
    /// Of the running kernel.
    pub fn of_kernel() -> Result<Self, BtfError> {
        let bytes = fs::read(VMLINUX).map_err(|error| BtfError::Unreadable(error.to_string()))?;
        Self::find(&Btf::parse(&bytes)?)
    }

    /// The parser keeps its message in the segment's control block, behind what BPF keeps there.
    fn find(btf: &Btf<'_>) -> Result<Self, BtfError> {
        let block = btf.field("sk_buff", &["cb"])?.offset;
        let in_block = |field| {
            let path = &["strp", "strp", field];
            let found = btf.field("sk_skb_cb", path)?.exactly(4, field)?;
            block.checked_add(found).ok_or_else(|| BtfError::Missing(field.to_owned()))
        };
        Ok(Self {
            strp_full_len: in_block("full_len")?,
            strp_offset: in_block("offset")?,
            bytes_acked: btf
                .field("tcp_sock", &["bytes_acked"])?
                .exactly(8, "tcp_sock.bytes_acked")?,
        })
    }
}

/// BTF with each type's place.
struct Btf<'a> {
    bytes: &'a [u8],
    /// Where each type's description begins; type ids count from 1.
    types: Vec<usize>,
    strings: &'a [u8],
}

/// Where a field is in the structure asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    offset: u32,
    bytes: u32,
}

impl Field {
    fn exactly(self, expected: u32, field: &str) -> Result<u32, BtfError> {
        if self.bytes == expected {
            return Ok(self.offset);
        }
        Err(BtfError::Width { field: field.to_owned(), bytes: self.bytes, expected })
    }
}

/// What all types have in common: `struct btf_type`.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// Members, parameters and the like that follow.
    count: usize,
    /// Whether offsets of members carry the size of a bit field.
    has_bit_fields: bool,
    /// Bytes, or the id of the type it refers to.
    size_or_type: u32,
}

struct Member {
    name: u32,
    type_id: u32,
    /// `None` for a bit field or one that does not begin at a byte.
    offset: Option<u32>,
}

// === impl Btf ===

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let word = |at| word(bytes, at).ok_or(BtfError::Header);
        let [m0, m1, version, ..] = *bytes else {
            return Err(BtfError::Header);
        };
        if u16::from_ne_bytes([m0, m1]) != MAGIC || version != 1 {
            return Err(BtfError::Header);
        }
        let (types_at, types_len) = (word(8)?, word(12)?);
        let (strings_at, strings_len) = (word(16)?, word(20)?);
        let header_len = word(4)?;
        let section = |at: u32, len: u32| {
            let start = usize::try_from(header_len.checked_add(at)?).ok()?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            bytes.get(start..end).map(|_| start..end)
        };
        let strings = section(strings_at, strings_len).ok_or(BtfError::Header)?;
        let types = section(types_at, types_len).ok_or(BtfError::Header)?;
        let mut btf = Self {
            // Nothing is read behind the types.
            bytes: &bytes[..types.end],
            types: Vec::new(),
            strings: &bytes[strings],
        };
        let mut at = types.start;
        while at < types.end {
            btf.types.push(at);
            at = btf.end_of(at).ok_or(BtfError::Damaged(at))?;
        }
        Ok(btf)
    }

    /// Where a path of member names leads in the structure `name`.
    fn field(&self, name: &str, path: &[&str]) -> Result<Field, BtfError> {
        let missing = || BtfError::Missing(format!("{name}.{}", path.join(".")));
        let found = (self.types.iter())
            .filter_map(|&at| self.type_at(at).map(|found| (at, found)))
            .filter(|(_, found)| matches!(found.kind, STRUCT | UNION))
            .find(|(_, found)| self.is_named(found.name, name))
            .ok_or_else(missing)?;
        let (mut place, mut offset) = (found.0, 0_u32);
        for member in path {
            let found = self.member(place, member, MAX_NESTING).ok_or_else(missing)?;
            offset = offset.checked_add(found.0).ok_or_else(missing)?;
            place = found.1;
        }
        let bytes = self.size(place, MAX_NESTING).ok_or_else(missing)?;
        Ok(Field { offset, bytes })
    }

    /// Offset and type of the member `name`, looked for in anonymous members too.
    fn member(&self, at: usize, name: &str, depth: u32) -> Option<(u32, usize)> {
        let depth = depth.checked_sub(1)?;
        let owner = self.type_at(at)?;
        if !matches!(owner.kind, STRUCT | UNION) {
            return None;
        }
        (0..owner.count).find_map(|nth| {
            let member = self.member_at(at, &owner, nth)?;
            let place = self.resolve(member.type_id)?;
            if self.is_named(member.name, name) {
                return Some((member.offset?, place));
            }
            if member.name != 0 {
                return None;
            }
            let (inner, found) = self.member(place, name, depth)?;
            Some((member.offset?.checked_add(inner)?, found))
        })
    }

    fn member_at(&self, owner_at: usize, owner: &Type, nth: usize) -> Option<Member> {
        let at = owner_at.checked_add(12)?.checked_add(nth.checked_mul(12)?)?;
        let bits = word(self.bytes, at.checked_add(8)?)?;
        let (bit_field, bits) = match owner.has_bit_fields {
            true => (bits >> 24 != 0, bits & 0xff_ffff),
            false => (false, bits),
        };
        Some(Member {
            name: word(self.bytes, at)?,
            type_id: word(self.bytes, at.checked_add(4)?)?,
            offset: (!bit_field && bits.is_multiple_of(8)).then_some(bits / 8),
        })
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, id: u32) -> Option<usize> {
        let mut id = id;
        for _ in 0..MAX_NESTING {
            let at = *self.types.get(usize::try_from(id).ok()?.checked_sub(1)?)?;
            let found = self.type_at(at)?;
            match found.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = found.size_or_type,
                _ => return Some(at),
            }
        }
        None
    }

    fn size(&self, at: usize, depth: u32) -> Option<u32> {
        let depth = depth.checked_sub(1)?;
        let found = self.type_at(at)?;
        match found.kind {
            INT | STRUCT | UNION | ENUM | FLOAT | ENUM64 => Some(found.size_or_type),
            ARRAY => {
                let element = self.resolve(word(self.bytes, at.checked_add(12)?)?)?;
                let count = word(self.bytes, at.checked_add(20)?)?;
                self.size(element, depth)?.checked_mul(count)
            }
            _ => None,
        }
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = word(self.bytes, at.checked_add(4)?)?;
        Some(Type {
            name: word(self.bytes, at)?,
            kind: info >> 24 & 0x1f,
            count: usize::try_from(info & 0xffff).ok()?,
            has_bit_fields: info >> 31 == 1,
            size_or_type: word(self.bytes, at.checked_add(8)?)?,
        })
    }

    /// Where the type after the one at `at` begins.
    fn end_of(&self, at: usize) -> Option<usize> {
        let found = self.type_at(at)?;
        let more = match found.kind {
            PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
            INT | VAR | DECL_TAG => 4,
            ARRAY => 12,
            ENUM | FUNC_PROTO => found.count.checked_mul(8)?,
            STRUCT | UNION | DATASEC | ENUM64 => found.count.checked_mul(12)?,
            _ => return None,
        };
        let end = at.checked_add(12)?.checked_add(more)?;
        (end <= self.bytes.len()).then_some(end)
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let text = usize::try_from(name).ok().and_then(|at| self.strings.get(at..));
        text.and_then(|text| text.strip_prefix(wanted.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

const MAGIC: u16 = 0xeb9f;

/// Deepest nesting of anonymous members, and longest chain of typedefs, that is followed.
const MAX_NESTING: u32 = 32;

// Kinds, `BTF_KIND_*` of the kernel's uapi/linux/btf.h.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

#[cfg(test)]
mod tests;
