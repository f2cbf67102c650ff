//! What the fuzz targets share. Each runs with
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none TARGET
//! ```
//!
//! from `forwarder/`, on the stable toolchain. The library has no unsafe code in what is fuzzed, so
//! a sanitizer would only cost time; overflow checks and debug assertions are on.

/// Bytes at the front of an input that say how the rest is cut.
pub const CUTS: usize = 4;

/// The input behind its cuts; none if there is nothing.
pub fn body(input: &[u8]) -> Option<&[u8]> {
    input.get(CUTS..)
}

/// `body` in pieces, as a socket might hand it out; the first bytes of `input` are their sizes, in
/// turn, from 1 byte to 4 kB.
pub fn pieces<'a>(input: &'a [u8], mut body: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let sizes = input.iter().take(CUTS).map(|&cut| 1 + usize::from(cut) * usize::from(cut) / 16);
    let mut sizes = sizes.cycle();
    std::iter::from_fn(move || {
        let (piece, rest) = body.split_at(sizes.next()?.min(body.len()));
        body = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
