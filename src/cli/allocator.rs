//! The allocator's arenas: as many as there are cores.
//!
//! glibc makes eight times as many, and what one of them has free serves no other: 1 GiB of FaultData peaked at 980 MiB with its default
//! and at 800 MiB with one arena a core, in the same time (docs/performance.md). Other allocators are left as they are.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "glibc has no other way, but for the environment that the process was started with")]
pub fn one_arena_a_core() {
    let cores = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    // SAFETY: mallopt takes two numbers and changes nothing but the allocator's own settings, under the allocator's own lock; it is called
    // before this program starts a second thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(cores).unwrap_or(i32::MAX)) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn one_arena_a_core() {}
