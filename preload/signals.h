// The program's signal handlers, which run between its calls and never in the middle of one that
// booster does, as with FUSE, where a signal waits for the answer to a read or write of a file.
//
// Every handler that the program installs through libc is kept here, and the kernel calls
// on_signal() in its place. A signal that finds its thread inside the shim is put back and blocked
// until the call is over: so a handler may do what it likes, leave by siglongjmp, fork, exec or
// exit, and finds nothing half done and nothing locked.
//
// Two kinds of signals are not put off. A fault (SIGSEGV, SIGBUS) in a copy to or from the
// program's memory ends the copy: the kernel is asked then, and says EFAULT. And handlers that were
// installed past libc are not known here: t_thread.depth keeps them out of the shim.
#pragma once

#include <signal.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "preload/process.h"

namespace booster::preload {

/// libc's sigaction (interpose_signal.cc).
int next_action(int number, const struct sigaction* action, struct sigaction* old);

/// sigaction() of the program. Async-signal-safe.
int change_action(int number, const struct sigaction* action, struct sigaction* old);
/// The program's handler of `number`, or SIG_DFL if none is known.
sighandler_t known_handler(int number);
/// libc has installed itself what signal() and its kin say, and has returned `old`. What the
/// program is to see of that is returned, if `before` was known before.
sighandler_t follow_action(int number, sighandler_t before, sighandler_t old);

/// Whether `number`, sent to this process, would end it: it has its default action. What was done
/// past libc is not known.
bool would_end(int number);

/// From now on faults in what is guarded are caught.
void install_guard();
extern std::atomic<bool> g_guarding;
inline void guard_copies() {
  if (!g_guarding.load(std::memory_order_acquire)) [[unlikely]]
    install_guard();
}

/// What `work(context)` answers, which looks at the program's memory; false if some of that cannot
/// be touched. It must leave nothing behind wherever it ends.
bool run_guarded(bool (*work)(void*), void* context);
template <typename Work>
bool guarded(Work& work) {
  return run_guarded([](void* context) { return (*static_cast<Work*>(context))(); },
                     const_cast<void*>(static_cast<const void*>(&work)));
}
/// Copies `length` bytes to or from the program's memory. False if some of it cannot be touched:
/// then any part has been copied.
bool copy_guarded(void* to, const void* from, size_t length);

/// The thread's signal mask, a bit for each signal from 1 on.
void get_signal_mask(uint64_t& mask);
void set_signal_mask(uint64_t mask, uint64_t* old);

}  // namespace booster::preload
