#include "preload/signals.h"

#include <errno.h>
#include <limits.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include <atomic>

#include "common/copy.h"
#include "preload/process.h"
#include "preload/raw.h"

namespace booster::preload {

constinit std::atomic<bool> g_guarding{false};

namespace {

constexpr int kSignals = 64;

/// Of the program's action what on_signal() does in the kernel's place.
enum : uint32_t {
  kPlain = 1,    // no SA_SIGINFO
  kOnce = 2,     // SA_RESETHAND
  kNoDefer = 4,  // SA_NODEFER, and the signal is not in sa_mask
};
constexpr int kOurFlags = SA_RESETHAND | SA_NODEFER;

/// Two threads that set the same one at once may each see the other's half of it, as the order of
/// such calls is nobody's to know.
struct Handler {
  std::atomic<uintptr_t> function{0};  // 0: none
  std::atomic<uint32_t> flags{0};
};
constinit Handler g_handlers[kSignals + 1];
/// Which signals have one.
constinit std::atomic<uint64_t> g_caught{0};
/// Set before g_guarding: SIG_DFL is veiled from now on.
constinit std::atomic<bool> g_guard_begun{false};

constexpr uint64_t bit(int number) {
  return uint64_t{1} << (number - 1);
}
constexpr uint64_t kFaults =
    bit(SIGSEGV) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGSYS);

/// The kernel's signal set is the first word of libc's.
uint64_t& mask_of(ucontext_t& frame) {
  return *reinterpret_cast<uint64_t*>(&frame.uc_sigmask);
}
void change_mask(int how, uint64_t mask, uint64_t* old = nullptr) {
  raw::raw_syscall(SYS_rt_sigprocmask, how, raw::word(&mask), raw::word(old), sizeof(mask));
}

bool is_function(const struct sigaction& action) {
  return action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN;
}

/// The instruction that was interrupted has caused it, and would do so again.
bool is_fault(int number, const siginfo_t& info) {
  return (kFaults & bit(number)) != 0 && info.si_code > 0;
}

/// Sends it to this thread anew, as it was.
bool put_back(int number, siginfo_t* info) {
  const long process = raw::raw_syscall(SYS_getpid);
  const long thread = raw::raw_syscall(SYS_gettid);
  return !raw::is_error(
      raw::raw_syscall(SYS_rt_tgsigqueueinfo, process, thread, number, raw::word(info)));
}

/// Until leave_shim(). Handlers may nest here: the mask before the first is a part of every later
/// one, so what all have in common is that of the call.
bool put_off(int number, siginfo_t* info, ucontext_t& frame) {
  if (!put_back(number, info)) return false;  // too many are queued already
  t_thread.mask &= mask_of(frame);
  t_thread.put_off = true;
  mask_of(frame) |= (g_caught.load(std::memory_order_relaxed) & ~kFaults) | bit(number);
  return true;
}

bool is_ours(const struct sigaction& action);
void unveil(struct sigaction& action, uintptr_t function, uint32_t flags);

/// As the kernel does it, which leaves all else as it was.
void set_default(int number, uint32_t flags) {
  struct sigaction action;
  if (next_action(number, nullptr, &action) != 0 || !is_ours(action)) return;
  unveil(action, 0, flags);
  next_action(number, &action, nullptr);
}

/// What the kernel would have done when it delivered the signal.
void deliver(int number, siginfo_t* info, void* frame) {
  Handler& handler = g_handlers[number];
  const uint32_t flags = handler.flags.load(std::memory_order_relaxed);
  const bool once = (flags & kOnce) != 0;
  // A child that has borrowed the memory has actions of its own.
  const bool borrowed = t_thread.vfork_child;
  // acq_rel: one thread alone has it.
  const uintptr_t function = once && !borrowed
                                 ? handler.function.exchange(0, std::memory_order_acq_rel)
                                 : handler.function.load(std::memory_order_acquire);
  if (function == 0 || once) {
    if (!borrowed) g_caught.fetch_and(~bit(number), std::memory_order_relaxed);
    set_default(number, flags);
  }
  if (function == 0) {
    // The default action. A fault happens again; anything else comes when this handler returns.
    if (!is_fault(number, *info)) put_back(number, info);
    return;
  }
  if ((flags & kNoDefer) != 0) change_mask(SIG_UNBLOCK, bit(number));
  // A handler that takes the number alone does not look at the rest.
  reinterpret_cast<void (*)(int, siginfo_t*, void*)>(function)(number, info, frame);
}

void on_signal(int number, siginfo_t* info, void* context) {
  auto& frame = *static_cast<ucontext_t*>(context);
  if (is_fault(number, *info)) {
    void** const landing = t_thread.landing;
    if (landing != nullptr && (number == SIGSEGV || number == SIGBUS)) {
      t_thread.landing = nullptr;
      change_mask(SIG_SETMASK, mask_of(frame));
      __builtin_longjmp(landing, 1);
    }
  } else if ((t_thread.depth != 0 || t_thread.uninterrupted != 0) && !t_thread.vfork_child &&
             put_off(number, info, frame)) {
    return;
  }
  deliver(number, info, context);
}

bool is_ours(const struct sigaction& action) {
  return action.sa_sigaction == on_signal;
}

/// What the program may see of what the kernel has. `function` 0 is SIG_DFL.
void unveil(struct sigaction& action, uintptr_t function, uint32_t flags) {
  if (!is_ours(action)) return;
  action.sa_sigaction = reinterpret_cast<void (*)(int, siginfo_t*, void*)>(function);
  if ((flags & kPlain) != 0) action.sa_flags &= ~SA_SIGINFO;
  if ((flags & kOnce) != 0) action.sa_flags |= SA_RESETHAND;
  if ((flags & kNoDefer) != 0) action.sa_flags |= SA_NODEFER;
}

/// What the kernel gets in its place.
struct sigaction veil(struct sigaction action) {
  action.sa_sigaction = on_signal;
  action.sa_flags = (action.sa_flags & ~kOurFlags) | SA_SIGINFO;
  return action;
}

uintptr_t function_of(const struct sigaction& action) {
  return is_function(action) ? reinterpret_cast<uintptr_t>(action.sa_sigaction) : 0;
}

bool is_guarded(int number, const struct sigaction& action) {
  return g_guard_begun.load(std::memory_order_seq_cst) && action.sa_handler == SIG_DFL &&
         (number == SIGSEGV || number == SIGBUS);
}

uint32_t flags_of(int number, const struct sigaction& action) {
  uint32_t flags = 0;
  if ((action.sa_flags & SA_SIGINFO) == 0) flags |= kPlain;
  if ((action.sa_flags & SA_RESETHAND) != 0) flags |= kOnce;
  if ((action.sa_flags & SA_NODEFER) != 0 && sigismember(&action.sa_mask, number) == 0) {
    flags |= kNoDefer;
  }
  return flags;
}

void keep(int number, uintptr_t function, uint32_t flags) {
  g_handlers[number].flags.store(flags, std::memory_order_relaxed);
  // Release: partner of the acquire in deliver().
  g_handlers[number].function.store(function, std::memory_order_release);
  if (function != 0) {
    g_caught.fetch_or(bit(number), std::memory_order_relaxed);
  } else {
    g_caught.fetch_and(~bit(number), std::memory_order_relaxed);
  }
}

}  // namespace

void leave_shim() {
  const uint64_t mask = t_thread.mask;
  t_thread.mask = ~uint64_t{0};
  t_thread.put_off = false;
  const int error = errno;  // the call's, whatever the handlers do
  change_mask(SIG_SETMASK, mask);
  errno = error;
}

int change_action(int number, const struct sigaction* action, struct sigaction* old) {
  if (number < 1 || number > kSignals) return next_action(number, action, old);
  const uintptr_t function = g_handlers[number].function.load(std::memory_order_acquire);
  const uint32_t flags = g_handlers[number].flags.load(std::memory_order_relaxed);
  struct sigaction ours;
  // A child that has borrowed its parent's memory has actions of its own, but no place for them.
  const bool follow = action != nullptr && !t_thread.vfork_child && !is_ours(*action);
  if (action != nullptr) ours = *action;
  const bool veiled = follow && (is_function(*action) || is_guarded(number, *action));
  if (veiled) {
    ours = veil(*action);
    keep(number, function_of(*action), flags_of(number, *action));
  }
  struct sigaction was;
  const int result = next_action(number, action == nullptr ? nullptr : &ours, &was);
  if (result != 0) {
    if (veiled) keep(number, function, flags);
    return result;
  }
  if (follow && !veiled) keep(number, 0, 0);
  unveil(was, function, flags);
  if (old != nullptr) *old = was;
  return result;
}

sighandler_t known_handler(int number) {
  if (number < 1 || number > kSignals) return SIG_DFL;
  const uintptr_t function = g_handlers[number].function.load(std::memory_order_acquire);
  return function == 0 ? SIG_DFL : reinterpret_cast<sighandler_t>(function);
}

sighandler_t follow_action(int number, sighandler_t before, sighandler_t old) {
  struct sigaction action = {};
  if (old == SIG_ERR) return old;
  if (!t_thread.vfork_child && next_action(number, nullptr, &action) == 0 && !is_ours(action)) {
    change_action(number, &action, nullptr);
  }
  action.sa_handler = old;
  return is_ours(action) ? before : old;
}

bool would_end(int number) {
  constexpr uint64_t kHarmless = bit(SIGCHLD) | bit(SIGURG) | bit(SIGWINCH) | bit(SIGCONT) |
                                 bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
  if (number < 1 || number > kSignals || (kHarmless & bit(number)) != 0) return false;
  struct sigaction now;
  return next_action(number, nullptr, &now) == 0 &&
         (now.sa_handler == SIG_DFL || (is_ours(now) && known_handler(number) == SIG_DFL));
}

void install_guard() {
  g_guard_begun.store(true, std::memory_order_seq_cst);
  for (const int number : {SIGSEGV, SIGBUS}) {
    struct sigaction now;
    // Where it is ignored, or a handler was installed past libc, it stays so.
    if (next_action(number, nullptr, &now) != 0 || now.sa_handler != SIG_DFL) continue;
    const struct sigaction ours = veil(now);
    struct sigaction was;
    if (next_action(number, &ours, &was) != 0) continue;
    if (was.sa_handler == SIG_DFL) {
      g_handlers[number].flags.store(flags_of(number, now), std::memory_order_relaxed);
    } else {
      next_action(number, &was, nullptr);  // another thread's, meanwhile
    }
  }
  // Release: whoever sees it has them.
  g_guarding.store(true, std::memory_order_release);
}

bool run_guarded(bool (*work)(void*), void* context) {
  guard_copies();
  // By way of a pointer, so that a fault can come from a call only, as the compiler has it.
  bool (*volatile call)(void*) = work;
  void** volatile outer = t_thread.landing;
  void* landing[5];
  if (__builtin_setjmp(landing) != 0) {
    t_thread.landing = outer;
    return false;
  }
  t_thread.landing = landing;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  const bool answer = call(context);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  t_thread.landing = outer;
  return answer;
}

void get_signal_mask(uint64_t& mask) {
  raw::raw_syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0, raw::word(&mask), sizeof(mask));
}

void set_signal_mask(uint64_t mask, uint64_t* old) {
  change_mask(SIG_SETMASK, mask, old);
}

bool copy_guarded(void* to, const void* from, size_t length) {
  const auto copy = [=] {
    common::copy_bytes(to, from, length);
    return true;
  };
  return guarded(copy);
}

}  // namespace booster::preload
