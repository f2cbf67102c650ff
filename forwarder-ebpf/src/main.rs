//! The programs: a stream parser that frames nothing, and a verdict that counts and redirects.
//!
//! The parser is there because the kernel's path with one honours what was read before a socket is
//! spliced and copes with overlapping segments; the path without does neither (Linux 6.18). The
//! verdict never passes bytes up: after a parser the kernel would lose count of them.
#![no_std]
#![no_main]

mod walk;

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{
    bpf_get_socket_cookie, bpf_map_lookup_elem, bpf_probe_read_kernel, bpf_sk_release,
    bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::{map, stream_parser, stream_verdict};
use aya_ebpf::maps::{HashMap, RingBuf, SockHash};
use aya_ebpf::programs::SkBuffContext;
use forwarder_ebpf::{
    Control, EVENT_BYTES, Event, MAX_PAIRS, NO_TARGET, OVER_HARD, OVER_SOFT, Stat, WALK, Walk, kind,
};

/// BPF_F_NO_PREALLOC: memory for the pairs there are, and no reuse of an entry while it is read.
const ON_DEMAND: u32 = 1;

/// Sockets whose incoming bytes are redirected; the programs are attached here.
#[map]
static SRC: SockHash<u64> = SockHash::with_max_entries(MAX_PAIRS, 0);
/// Sockets that bytes are redirected to; without programs.
#[map]
static DST: SockHash<u64> = SockHash::with_max_entries(MAX_PAIRS, 0);
/// By source, written by user space.
#[map]
static CTL: HashMap<u64, Control> = HashMap::with_max_entries(MAX_PAIRS, ON_DEMAND);
/// By source, written here.
#[map]
static STAT: HashMap<u64, Stat> = HashMap::with_max_entries(MAX_PAIRS, ON_DEMAND);
/// By source that has [`WALK`], written here.
#[map]
static CHUNKS: HashMap<u64, Walk> = HashMap::with_max_entries(MAX_PAIRS, ON_DEMAND);
/// Of [`Event`].
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

// Offsets of kernel fields, set by user space from the running kernel's BTF before loading.
/// In `sk_buff`: `strp_msg.full_len` of the parser's message.
#[unsafe(no_mangle)]
static STRP_FULL_LEN: u32 = 0;
/// In `sk_buff`: `strp_msg.offset` of the parser's message.
#[unsafe(no_mangle)]
static STRP_OFFSET: u32 = 0;
/// In `tcp_sock`: `bytes_acked`.
#[unsafe(no_mangle)]
static BYTES_ACKED: u32 = 0;

/// The parser: a message is all that is left of this segment.
#[stream_parser]
fn p_rest(ctx: SkBuffContext) -> u32 {
    match kernel_field::<u32>(ctx.as_ptr(), &STRP_OFFSET) {
        Some(offset) if offset < ctx.len() => ctx.len() - offset,
        // The kernel ends parsing and reports the error on the source.
        _ => EINVAL.wrapping_neg(),
    }
}

/// The verdict: redirected, or dropped and reported.
#[stream_verdict]
fn v_strp(ctx: SkBuffContext) -> u32 {
    // SAFETY: the context is the segment that the kernel passed.
    let source = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    match redirect(&ctx, source) {
        Some(action) => action,
        None => {
            report(source, kind::UNKNOWN, 0);
            SK_DROP
        }
    }
}

/// `None` for a source that user space has not described.
#[inline(always)]
fn redirect(ctx: &SkBuffContext, source: u64) -> Option<u32> {
    // SAFETY: entries are not reused while a program reads them (ON_DEMAND).
    let control = unsafe { CTL.get(source) }?;
    // SAFETY: as above, and verdicts of one source run under its lock.
    let stat = unsafe { STAT.get_ptr_mut(source)?.as_mut() }?;
    let len = u64::from(kernel_field::<u32>(ctx.as_ptr(), &STRP_FULL_LEN)?);
    stat.segments += 1;
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "source {}: {} bytes", source, len);
    // Also over what is dropped: it has left the source, who may be read on without this target.
    if control.flags & WALK != 0
        && let Some(offset) = kernel_field::<u32>(ctx.as_ptr(), &STRP_OFFSET)
    {
        walk::walk(ctx, &CHUNKS, source, offset, len as u32);
    }
    if stat.flags & (OVER_HARD | NO_TARGET) != 0 || !has_room(control, stat, source, len) {
        stat.dropped += len;
        return Some(SK_DROP);
    }
    if DST.redirect_skb(ctx, control.target, 0) != i64::from(SK_PASS) {
        stat.dropped += len;
        broken(stat, source, NO_TARGET, kind::NO_TARGET, 0);
        return Some(SK_DROP);
    }
    stat.redirected += len;
    Some(SK_PASS)
}

/// Whether `len` more bytes may go; reports limits that are crossed.
#[inline(always)]
fn has_room(control: &Control, stat: &mut Stat, source: u64, len: u64) -> bool {
    let Some(acked) = acked(control.target) else {
        broken(stat, source, NO_TARGET, kind::NO_TARGET, 0);
        return false;
    };
    let written = control.base + stat.redirected + len;
    let backlog = written.saturating_sub(acked);
    if control.hard_limit != 0 && backlog > control.hard_limit {
        broken(stat, source, OVER_HARD, kind::OVER_HARD, backlog);
        return false;
    }
    stat.backlog = backlog;
    stat.max_backlog = stat.max_backlog.max(backlog);
    if control.soft_limit != 0 {
        if backlog > control.soft_limit {
            broken(stat, source, OVER_SOFT, kind::OVER_SOFT, backlog);
        } else if backlog < control.soft_limit / 2 {
            stat.flags &= !OVER_SOFT;
        }
    }
    true
}

/// Sets `flag`, and reports it if it was not set.
#[inline(always)]
fn broken(stat: &mut Stat, source: u64, flag: u32, kind: u32, backlog: u64) {
    if stat.flags & flag == 0 {
        stat.flags |= flag;
        report(source, kind, backlog);
    }
}

/// User space looks at [`Stat`] by the clock too, so an event that finds the ring full is no loss.
#[inline(always)]
fn report(source: u64, kind: u32, backlog: u64) {
    if let Some(mut event) = EVENTS.reserve::<Event>(0) {
        event.write(Event { source, backlog, kind, padding: 0 });
        event.submit(0);
    }
}

/// Bytes of `target` that its peer has acknowledged; `None` if it is not in [`DST`].
#[inline(always)]
fn acked(target: u64) -> Option<u64> {
    let map: *mut c_void = (&raw const DST).cast_mut().cast();
    // SAFETY: a map and a key of its size. The reference is released below on every path.
    let socket: *mut bpf_sock =
        unsafe { bpf_map_lookup_elem(map, (&raw const target).cast()) }.cast();
    if socket.is_null() {
        return None;
    }
    // SAFETY: a socket that is held; null if it is not TCP.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    let acked = match tcp.is_null() {
        true => None,
        false => kernel_field::<u64>(tcp.cast(), &BYTES_ACKED),
    };
    // SAFETY: held since the lookup.
    unsafe { bpf_sk_release(socket.cast()) };
    acked
}

/// The field at `offset` in the kernel structure `base`.
#[inline(always)]
fn kernel_field<T>(base: *const c_void, offset: &'static u32) -> Option<T> {
    // SAFETY: a static; volatile because user space sets it after compilation.
    let offset = unsafe { ptr::read_volatile(offset) };
    // SAFETY: the helper checks the address and fails on one that is not mapped.
    unsafe { bpf_probe_read_kernel(base.byte_add(offset as usize).cast::<T>()) }.ok()
}

const EINVAL: u32 = 22;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers used are open to programs under this licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
