//! Reading a whole map with few system calls (BPF_MAP_LOOKUP_BATCH, Linux 5.6).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;
use nix::errno::Errno;
use nix::libc;

/// The part of the kernel's `union bpf_attr` that is about batches.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// All entries of a hash map of `V` with keys of 8 bytes, but for those that come or go meanwhile.
pub(super) fn read_all<V: Pod + Default>(map: BorrowedFd<'_>) -> io::Result<Vec<(u64, V)>> {
    let (mut keys, mut values) = (vec![0_u64; AT_A_TIME], vec![V::default(); AT_A_TIME]);
    // Where to go on, in the kernel's own terms.
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut is_first = true;
    let mut all = Vec::new();
    loop {
        let mut batch = Batch {
            in_batch: if is_first { 0 } else { (&raw const from).addr() as u64 },
            out_batch: (&raw mut to).addr() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(keys.len()).map_err(io::Error::other)?,
            map_fd: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: an open map, whose key has 8 bytes and whose value is a `V`; room for `count` of
        // both, and for a `u32` in `to`, all of which live through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut batch,
                size_of::<Batch>() as libc::c_uint,
            )
        };
        let error = (result != 0).then(Errno::last);
        if let Some(error) = error.filter(|error| *error != Errno::ENOENT) {
            return Err(error.into());
        }
        let n = usize::try_from(batch.count).unwrap_or_default();
        all.extend(keys.iter().copied().zip(values.iter().copied()).take(n));
        if error.is_some() {
            return Ok(all);
        }
        (from, is_first) = (to, false);
    }
}

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// Entries of one call. One bucket of the kernel's table has to fit.
const AT_A_TIME: usize = 1024;
