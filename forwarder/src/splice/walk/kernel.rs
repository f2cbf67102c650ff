//! To and from the kernel's walk, which does the same in the sockmap program.

use forwarder_ebpf::{self as ebpf, CHUNK_STREAMS, HEADER_PASSED};

use super::{ChunkStream, USUAL_WINDOW, Walk};
use crate::rtmp::message::kind;

impl Walk {
    /// The same for the kernel; `None` if it cannot follow: it knows chunk stream ids up to 63.
    pub(in crate::splice) fn to_kernel(&self) -> Option<ebpf::Walk> {
        let mut walk = ebpf::Walk::new(self.chunk_size);
        if self.lost || self.csid >= CHUNK_STREAMS as u32 {
            return None;
        }
        walk.csid = self.csid;
        walk.chunk_left = self.chunk_left;
        walk.flags = if self.passed_header { HEADER_PASSED } else { 0 };
        let header = self.header.as_slice();
        if header.first().is_some_and(|first| first & 0x3f < 2) {
            return None;
        }
        walk.header_len = u32::try_from(header.len()).ok()?;
        walk.header.get_mut(..header.len())?.copy_from_slice(header);
        for stream in &self.streams {
            let open = if stream.csid == self.csid { self.chunk_left } else { 0 };
            *walk.streams.get_mut(usize::try_from(stream.csid).ok()?)? = ebpf::ChunkStream {
                length: stream.len,
                later: stream.left.checked_sub(open)?,
                kind: u32::from(stream.kind),
                extended: stream.extended.unwrap_or(0),
                timestamp: stream.timestamp,
                delta: stream.delta,
                msid: stream.msid,
                padding: 0,
            };
            let peeks = matches!(stream.kind, kind::AUDIO | kind::VIDEO) && stream.left > 0;
            if peeks && open > 0 && stream.len >= 2 {
                walk.peek_left = 2_u32.saturating_sub(stream.seen()).min(open);
                walk.peek = u32::from(stream.word[0]);
            }
            if stream.left > 0 && matches!(stream.kind, kind::SET_CHUNK_SIZE | kind::ABORT) {
                if stream.len != 4 {
                    return None;
                }
                walk.control_left = stream.left;
                let seen = 8 * stream.left.min(4);
                walk.control_value = u32::from_be_bytes(stream.word).checked_shr(seen).unwrap_or(0);
            }
        }
        Some(walk)
    }

    /// What the kernel's walk has come to.
    pub(in crate::splice) fn from_kernel(kernel: &ebpf::Walk) -> Self {
        let mut walk = Self::new(kernel.chunk_size);
        walk.lost = kernel.punt != 0;
        walk.passed_header = kernel.flags & HEADER_PASSED != 0;
        walk.csid = kernel.csid;
        walk.chunk_left = kernel.chunk_left;
        let header = kernel.header.iter().take(kernel.header_len as usize);
        header.for_each(|&byte| walk.header.push(byte));
        for (csid, stream) in (0..).zip(&kernel.streams) {
            if *stream == ebpf::ChunkStream::default() {
                continue;
            }
            let open = if csid == kernel.csid { kernel.chunk_left } else { 0 };
            let kind = u8::try_from(stream.kind).unwrap_or(0);
            let word = match kind {
                kind::SET_CHUNK_SIZE | kind::ABORT => {
                    let missing = 8 * kernel.control_left;
                    kernel.control_value.checked_shl(missing).unwrap_or(0).to_be_bytes()
                }
                kind::AUDIO | kind::VIDEO => [kernel.peek.to_be_bytes()[3], 0, 0, 0],
                // The kernel does not look into these; if one is cut, it is most probably this.
                _ => USUAL_WINDOW.to_be_bytes(),
            };
            walk.streams.push(ChunkStream {
                csid,
                len: stream.length,
                kind,
                timestamp: stream.timestamp,
                delta: stream.delta,
                msid: stream.msid,
                extended: (stream.extended != 0).then_some(stream.extended),
                left: stream.later + open,
                word,
            });
        }
        walk
    }
}
