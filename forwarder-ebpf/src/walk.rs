//! Follows RTMP chunk headers through redirected bytes, across segments.
//!
//! RTMP 1.0 section 5.3.1; type 3 chunks must repeat an extended timestamp, as FFmpeg and SRS write
//! it. What cannot be followed ends the walk with a [`punt`], never the redirection.
use core::ffi::c_void;
use core::hint::black_box;

use aya_ebpf::helpers::{bpf_loop, bpf_skb_load_bytes};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::SkBuffContext;
use forwarder_ebpf::{
    AGGREGATE, AUDIO, CHUNK_STREAMS, ChunkStream, HEADER_PASSED, VIDEO, Walk, first_delta,
    is_header, punt,
};

/// Walks the `len` bytes at `offset` of the segment.
#[inline(always)]
pub fn walk(
    ctx: &SkBuffContext,
    walks: &'static HashMap<u64, Walk>,
    source: u64,
    offset: u32,
    len: u32,
) {
    let Some(walk) = walks.get_ptr_mut(source) else {
        return;
    };
    let mut segment =
        Segment { skb: ctx.skb.skb.cast(), walk, at: offset, end: offset.wrapping_add(len) };
    // Linux 5.17. A bounded `for` makes the verifier walk every iteration.
    // SAFETY: the callback has the type that the helper calls, and `segment` outlives the call.
    unsafe {
        let step = step as extern "C" fn(u32, *mut Segment) -> i64;
        bpf_loop(MAX_STEPS, step as *mut c_void, (&raw mut segment).cast(), 0);
    }
}

/// A step is a header or a run of payload: at least one byte each.
const MAX_STEPS: u32 = 1 << 20;

/// What is left of a segment.
#[repr(C)]
struct Segment {
    skb: *const c_void,
    walk: *mut Walk,
    at: u32,
    end: u32,
}

/// One header or one run of payload; 1 ends the loop.
#[inline(never)]
extern "C" fn step(_: u32, segment: *mut Segment) -> i64 {
    // SAFETY: `bpf_loop` passes what `walk` gave it.
    let segment = unsafe { &mut *segment };
    // SAFETY: an entry of the map; verdicts of one source run one at a time.
    let walk = unsafe { &mut *segment.walk };
    if segment.at >= segment.end || walk.punt != 0 {
        return 1;
    }
    let result = match walk.chunk_left {
        0 => header(segment, walk),
        _ => payload(segment, walk),
    };
    match result {
        Ok(()) => 0,
        Err(reason) => {
            walk.punt = reason;
            1
        }
    }
}

#[inline(always)]
fn payload(segment: &mut Segment, walk: &mut Walk) -> Result<(), u32> {
    let stream = &walk.streams[walk.csid as usize % CHUNK_STREAMS];
    if walk.control_left > 0 && is_control(stream.kind) {
        return control(segment, walk);
    }
    if walk.peek_left > 0 {
        let kind = stream.kind;
        return peek(segment, walk, kind);
    }
    let run = walk.chunk_left.min(segment.end - segment.at);
    walk.chunk_left -= run;
    segment.at += run;
    Ok(())
}

/// One of the first two bytes of an audio or video message.
#[inline(always)]
fn peek(segment: &mut Segment, walk: &mut Walk, kind: u32) -> Result<(), u32> {
    let mut byte = 0_u8;
    load(segment, (&raw mut byte).cast(), 1)?;
    walk.peek_left -= 1;
    walk.chunk_left -= 1;
    if walk.peek_left > 0 {
        walk.peek = u32::from(byte);
    } else if is_header(kind, walk.peek as u8, byte) {
        walk.flags |= HEADER_PASSED;
    }
    Ok(())
}

/// One byte of a Set Chunk Size or Abort.
#[inline(always)]
fn control(segment: &mut Segment, walk: &mut Walk) -> Result<(), u32> {
    let mut byte = 0_u8;
    load(segment, (&raw mut byte).cast(), 1)?;
    walk.control_value = walk.control_value << 8 | u32::from(byte);
    walk.control_left -= 1;
    walk.chunk_left -= 1;
    if walk.control_left > 0 {
        return Ok(());
    }
    let value = walk.control_value;
    if walk.streams[walk.csid as usize % CHUNK_STREAMS].kind == SET_CHUNK_SIZE {
        // The top bit must be zero, and a chunk carries something.
        if value == 0 || value > i32::MAX as u32 {
            return Err(punt::CONTROL);
        }
        walk.chunk_size = value;
        return Ok(());
    }
    if value as usize >= CHUNK_STREAMS {
        return Err(punt::CONTROL);
    }
    walk.streams[value as usize % CHUNK_STREAMS].later = 0;
    Ok(())
}

/// A header or as much of it as there is.
#[inline(always)]
fn header(segment: &mut Segment, walk: &mut Walk) -> Result<(), u32> {
    if walk.header_len == 0 {
        load(segment, walk.header.as_mut_ptr(), 1)?;
        walk.header_len = 1;
    }
    let format = walk.header[0] >> 6;
    let csid = walk.header[0] & 63;
    if csid < 2 {
        return Err(punt::CSID);
    }
    let basic_and_fields = match format {
        0 => 12_u64,
        1 => 8,
        2 => 4,
        _ => 1,
    };
    if !collect(segment, walk, basic_and_fields)? {
        return Ok(());
    }
    let mut stream = walk.streams[csid as usize % CHUNK_STREAMS];
    let mut time = be24(&walk.header, 1);
    let is_extended = match format {
        3 => stream.extended != 0,
        _ => time == EXTENDED,
    };
    if is_extended {
        if !collect(segment, walk, basic_and_fields + 4)? {
            return Ok(());
        }
        let at = basic_and_fields as usize & 15;
        let value = be24(&walk.header, at + 1) | u32::from(walk.header[at]) << 24;
        // A sender that does not repeat it has payload here.
        if value < EXTENDED || (format == 3 && value != stream.extended) {
            return Err(punt::EXTENDED);
        }
        stream.extended = value;
        time = value;
    } else {
        stream.extended = 0;
    }
    walk.header_len = 0;
    walk.csid = u32::from(csid);
    if format < 3 && stream.later > 0 {
        return Err(punt::HEADER);
    }
    if stream.later == 0 {
        set_time(walk, format, &mut stream, time);
    }
    open_chunk(walk, format, stream)
}

/// Collects a header up to `len` bytes, 16 at most; whether they are there.
#[inline(always)]
fn collect(segment: &mut Segment, walk: &mut Walk, len: u64) -> Result<bool, u32> {
    let have = u64::from(walk.header_len);
    if have >= len {
        return Ok(true);
    }
    let more = (len - have).min(u64::from(segment.end - segment.at));
    // The verifier wants to see the bounds in this very number, which the compiler knows and would
    // check in others or not at all.
    let more = black_box(more);
    if more == 0 || more > 15 {
        return Ok(false);
    }
    // SAFETY: have + more <= len, within the 16 bytes of `header`.
    let to = unsafe { walk.header.as_mut_ptr().add(have as usize) };
    load(segment, to, more as u32)?;
    walk.header_len = (have + more) as u32;
    Ok(have + more >= len)
}

/// What the header of a new message says of its time and its message stream.
#[inline(always)]
fn set_time(walk: &Walk, format: u8, stream: &mut ChunkStream, time: u32) {
    match format {
        0 => {
            stream.timestamp = time;
            stream.delta = first_delta(time);
            let [m0, m1, m2, m3] =
                [walk.header[8], walk.header[9], walk.header[10], walk.header[11]];
            stream.msid = u32::from_le_bytes([m0, m1, m2, m3]);
            return;
        }
        1 | 2 => stream.delta = time,
        _ => {}
    }
    stream.timestamp = stream.timestamp.wrapping_add(stream.delta);
}

/// The header is complete: what follows is the chunk's payload.
#[inline(always)]
fn open_chunk(walk: &mut Walk, format: u8, mut stream: ChunkStream) -> Result<(), u32> {
    if format < 2 {
        stream.length = be24(&walk.header, 4);
        stream.kind = u32::from(walk.header[7]);
    }
    let begins = stream.later == 0;
    if begins {
        stream.later = stream.length;
        walk.messages += 1;
        if is_control(stream.kind) {
            if stream.length != 4 {
                return Err(punt::CONTROL);
            }
            walk.control_left = 4;
            walk.control_value = 0;
        }
    }
    walk.chunk_left = stream.later.min(walk.chunk_size);
    stream.later -= walk.chunk_left;
    walk.peek_left = match stream.kind {
        // A header has both bytes in its first chunk: no chunk size is that small.
        AUDIO | VIDEO if begins && walk.chunk_left >= 2 => 2,
        _ => 0,
    };
    if begins && stream.kind == AGGREGATE {
        walk.flags |= HEADER_PASSED;
    }
    walk.streams[walk.csid as usize % CHUNK_STREAMS] = stream;
    Ok(())
}

/// Loads the next `len` bytes of the segment.
#[inline(always)]
fn load(segment: &mut Segment, to: *mut u8, len: u32) -> Result<(), u32> {
    // SAFETY: callers give room for `len` bytes.
    let failed = unsafe { bpf_skb_load_bytes(segment.skb, segment.at, to.cast(), len) };
    if failed != 0 {
        return Err(punt::UNREADABLE);
    }
    segment.at += len;
    Ok(())
}

fn is_control(kind: u32) -> bool {
    kind == SET_CHUNK_SIZE || kind == ABORT
}

#[inline(always)]
fn be24(header: &[u8; 16], at: usize) -> u32 {
    let byte = |at: usize| header[at & 15];
    u32::from_be_bytes([0, byte(at), byte(at + 1), byte(at + 2)])
}

/// A timestamp field that says that four more bytes follow.
const EXTENDED: u32 = 0xff_ffff;

const SET_CHUNK_SIZE: u32 = 1;
const ABORT: u32 = 2;
