// Interposers of what multiplies, replaces or ends the process. Boosted writes are settled before,
// since afterwards others look at the files, and descriptions that others will hold are marked, so
// that no offset is claimed any more by a process that may be killed.
#include <errno.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <threads.h>
#include <unistd.h>
#include <wordexp.h>

#include "preload/interpose.h"

using namespace booster::preload;

BOOSTER_NEXT(pid_t, fork, (void))
BOOSTER_NEXT(pid_t, _Fork, (void))
BOOSTER_NEXT(int, daemon, (int, int))
BOOSTER_NEXT(pid_t, forkpty, (int*, char*, const termios*, const winsize*))
BOOSTER_NEXT(int, clone, (int (*)(void*), void*, int, void*, ...))
BOOSTER_NEXT(int, pthread_create, (pthread_t*, const pthread_attr_t*, void* (*)(void*), void*))
BOOSTER_NEXT(int, thrd_create, (thrd_t*, thrd_start_t, void*))
BOOSTER_NEXT(int, system, (const char*))
BOOSTER_NEXT(int, wordexp, (const char*, wordexp_t*, int))
BOOSTER_NEXT(FILE*, popen, (const char*, const char*))
BOOSTER_NEXT(int, posix_spawn,
             (pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*,
              char* const*, char* const*))
BOOSTER_NEXT(int, posix_spawnp,
             (pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*,
              char* const*, char* const*))
BOOSTER_NEXT(int, execve, (const char*, char* const*, char* const*))
BOOSTER_NEXT(int, execv, (const char*, char* const*))
BOOSTER_NEXT(int, execvp, (const char*, char* const*))
BOOSTER_NEXT(int, execvpe, (const char*, char* const*, char* const*))
BOOSTER_NEXT(int, fexecve, (int, char* const*, char* const*))
BOOSTER_NEXT(int, execveat, (int, const char*, char* const*, char* const*, int))
BOOSTER_NEXT(int, prctl, (int, ...))
BOOSTER_NEXT(void, _exit, (int))
BOOSTER_NEXT(void, _Exit, (int))
BOOSTER_NEXT(void, quick_exit, (int))

namespace {

pid_t in_child(pid_t pid) {
  // The first entry finds the marker wiped and forgets the parent's state, socket included.
  if (pid == 0) Entry entry;
  return pid;
}

}  // namespace

BOOSTER_EXPORT pid_t fork(void) {
  const Sharing sharing;
  return in_child(next_fork()());
}
BOOSTER_EXPORT pid_t __fork(void) {
  return fork();
}
BOOSTER_EXPORT pid_t _Fork(void) {
  const Sharing sharing;
  return in_child(next__Fork()());
}

BOOSTER_EXPORT int daemon(int no_chdir, int no_close) {
  const Sharing sharing;
  const int result = next_daemon()(no_chdir, no_close);
  if (result == 0) Entry entry;
  return result;
}
BOOSTER_EXPORT pid_t forkpty(int* controller, char* name, const termios* modes,
                             const winsize* size) {
  const Sharing sharing;
  return in_child(next_forkpty()(controller, name, modes, size));
}

namespace {

/// Until the end of the scope no handler runs. A handler that came in the moment in which the child
/// of vfork has gone and its parent does not know it yet would take itself for the child's.
class SignalsBlocked {
 public:
  SignalsBlocked() { set_signal_mask(~uint64_t{0}, &mask_); }
  ~SignalsBlocked() { set_signal_mask(mask_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  /// The thread's own.
  uint64_t mask() const { return mask_; }

 private:
  uint64_t mask_ = 0;
};

struct Borrowed {
  int (*run)(void*);
  void* argument;
  uint64_t mask;
};

int run_borrowed(void* argument) {
  const Borrowed borrowed = *static_cast<Borrowed*>(argument);
  set_signal_mask(borrowed.mask, nullptr);
  return borrowed.run(borrowed.argument);
}

}  // namespace

namespace {

bool is_vfork_child() {
  return t_thread.vfork_child && raw::raw_syscall(SYS_getpid) != t_thread.vfork_parent;
}

void begin_to_lend() {
  t_thread.vfork_parent = static_cast<int>(raw::raw_syscall(SYS_getpid));
  t_thread.vfork_child = true;
}

void end_to_lend() {
  t_thread.vfork_child = false;
  t_thread.uninterrupted = 0;  // a child that was killed may have left it
}

}  // namespace

BOOSTER_EXPORT int clone(int (*run)(void*), void* stack, int flags, void* argument, ...) {
  va_list arguments;
  va_start(arguments, argument);
  auto* parent_tid = va_arg(arguments, void*);
  auto* tls = va_arg(arguments, void*);
  auto* child_tid = va_arg(arguments, void*);
  va_end(arguments);
  if (shares_with_caller(static_cast<unsigned>(flags))) before_unseen_threads();
  if ((flags & CLONE_THREAD) != 0) {
    return next_clone()(run, stack, flags, argument, parent_tid, tls, child_tid);
  }
  const Sharing sharing;
  // A child that borrows this thread's memory while it waits, as vfork's does.
  constexpr int kBorrows = CLONE_VM | CLONE_VFORK;
  if ((flags & (kBorrows | CLONE_SETTLS)) != kBorrows || t_thread.vfork_child) {
    return next_clone()(run, stack, flags, argument, parent_tid, tls, child_tid);
  }
  const SignalsBlocked blocked;
  Borrowed borrowed{run, argument, blocked.mask()};
  t_thread.vfork_fresh = false;
  begin_to_lend();
  const int child =
      next_clone()(&run_borrowed, stack, flags, &borrowed, parent_tid, tls, child_tid);
  end_to_lend();
  return child;
}

BOOSTER_EXPORT int __clone(int (*run)(void*), void* stack, int flags, void* argument, ...) noexcept
    __attribute__((alias("clone")));

namespace {

/// What this thread has read, the kernel has to hear before another can ask for it.
void before_thread() {
  const Entry entry;
  if (entry) give_back_offsets();
}

}  // namespace

BOOSTER_EXPORT int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                  void* (*run)(void*), void* argument) {
  before_thread();
  return next_pthread_create()(thread, attributes, run, argument);
}
BOOSTER_EXPORT int thrd_create(thrd_t* thread, thrd_start_t run, void* argument) {
  before_thread();
  return next_thrd_create()(thread, run, argument);
}

BOOSTER_EXPORT int system(const char* command) {
  const Sharing sharing;
  return next_system()(command);
}
/// Has a shell do what stands in `$(…)`.
BOOSTER_EXPORT int wordexp(const char* words, wordexp_t* result, int flags) {
  const Sharing sharing;
  return next_wordexp()(words, result, flags);
}
BOOSTER_EXPORT FILE* popen(const char* command, const char* type) {
  const Sharing sharing;
  return next_popen()(command, type);
}
BOOSTER_EXPORT FILE* _IO_popen(const char* command, const char* type) {
  return popen(command, type);
}
BOOSTER_EXPORT int posix_spawn(pid_t* pid, const char* path,
                               const posix_spawn_file_actions_t* actions,
                               const posix_spawnattr_t* attributes, char* const* argv,
                               char* const* envp) {
  const Sharing sharing;
  return next_posix_spawn()(pid, path, actions, attributes, argv, envp);
}
BOOSTER_EXPORT int posix_spawnp(pid_t* pid, const char* file,
                                const posix_spawn_file_actions_t* actions,
                                const posix_spawnattr_t* attributes, char* const* argv,
                                char* const* envp) {
  const Sharing sharing;
  return next_posix_spawnp()(pid, file, actions, attributes, argv, envp);
}

BOOSTER_EXPORT int execve(const char* path, char* const* argv, char* const* envp) {
  const Leaving leaving;
  return next_execve()(path, argv, envp);
}
BOOSTER_EXPORT int execv(const char* path, char* const* argv) {
  const Leaving leaving;
  return next_execv()(path, argv);
}
BOOSTER_EXPORT int execvp(const char* file, char* const* argv) {
  const Leaving leaving;
  return next_execvp()(file, argv);
}
BOOSTER_EXPORT int execvpe(const char* file, char* const* argv, char* const* envp) {
  const Leaving leaving;
  return next_execvpe()(file, argv, envp);
}
BOOSTER_EXPORT int fexecve(int fd, char* const* argv, char* const* envp) {
  const Leaving leaving;
  return next_fexecve()(fd, argv, envp);
}
BOOSTER_EXPORT int execveat(int directory, const char* path, char* const* argv, char* const* envp,
                            int flags) {
  const Leaving leaving;
  return next_execveat()(directory, path, argv, envp, flags);
}

namespace {

/// The arguments of execl and its kind as a vector on the caller's stack.
size_t count_arguments(const char* first, va_list arguments) {
  size_t count = 0;
  for (const char* argument = first; argument != nullptr; argument = va_arg(arguments, char*)) {
    ++count;
  }
  return count;
}

#define BOOSTER_COLLECT(first)                                                      \
  va_list arguments;                                                                \
  va_start(arguments, first);                                                       \
  const size_t count = count_arguments(first, arguments);                           \
  va_end(arguments);                                                                \
  auto** argv = static_cast<char**>(__builtin_alloca((count + 1) * sizeof(char*))); \
  va_start(arguments, first);                                                       \
  argv[0] = const_cast<char*>(first);                                               \
  for (size_t i = 1; i <= count; ++i) argv[i] = va_arg(arguments, char*)

}  // namespace

BOOSTER_EXPORT int execl(const char* path, const char* first, ...) {
  BOOSTER_COLLECT(first);
  va_end(arguments);
  return execv(path, argv);
}
BOOSTER_EXPORT int execlp(const char* file, const char* first, ...) {
  BOOSTER_COLLECT(first);
  va_end(arguments);
  return execvp(file, argv);
}
BOOSTER_EXPORT int execle(const char* path, const char* first, ...) {
  BOOSTER_COLLECT(first);
  char** envp = va_arg(arguments, char**);
  va_end(arguments);
  return execve(path, argv, envp);
}

BOOSTER_EXPORT int prctl(int option, ...) {
  va_list arguments;
  va_start(arguments, option);
  const auto a = va_arg(arguments, unsigned long);
  const auto b = va_arg(arguments, unsigned long);
  const auto c = va_arg(arguments, unsigned long);
  const auto d = va_arg(arguments, unsigned long);
  va_end(arguments);
  // Without a filter it asks whether there could be one.
  if (option == PR_SET_SECCOMP && (a != SECCOMP_MODE_FILTER || b != 0)) before_seccomp();
  return next_prctl()(option, a, b, c, d);
}

BOOSTER_EXPORT void _exit(int status) {
  const Leaving leaving;
  next__exit()(status);
  __builtin_unreachable();
}
BOOSTER_EXPORT void _Exit(int status) {
  const Leaving leaving;
  next__Exit()(status);
  __builtin_unreachable();
}
BOOSTER_EXPORT void quick_exit(int status) {
  const Leaving leaving;
  next_quick_exit()(status);
  __builtin_unreachable();
}

namespace {

/// exit() runs this after the program's own handlers, most of the time; what still writes after it
/// does so through FUSE.
__attribute__((destructor)) void at_exit() {
  const Leaving leaving;
  stop_boosting();
}

}  // namespace

// vfork returns twice on one stack, so it cannot be a C++ function: the child would destroy the
// frame that the parent returns into. The child borrows this thread's memory until it execs; the
// flag keeps it out of the shim's state, and the parent clears the flag when it runs again.
//
// The three are called by one thread after each other, in the parent, in the child, and in the
// parent again. Signals wait in between: see SignalsBlocked. A child may do the same once more, and
// may be killed anywhere, so nothing is counted here.
extern "C" __attribute__((visibility("hidden"), used)) void booster_before_vfork() {
  if (is_vfork_child()) return;
  {
    const Entry entry;
    if (entry) begin_to_share();
    t_thread.vfork_shares = static_cast<bool>(entry);
  }
  set_signal_mask(~uint64_t{0}, &t_thread.vfork_mask);
  t_thread.vfork_fresh = true;
  begin_to_lend();
}
extern "C" __attribute__((visibility("hidden"), used)) void booster_in_vfork_child() {
  if (!t_thread.vfork_fresh) return;
  t_thread.vfork_fresh = false;
  set_signal_mask(t_thread.vfork_mask, nullptr);
}
extern "C" __attribute__((visibility("hidden"), used)) pid_t booster_after_vfork(long result) {
  if (!is_vfork_child()) {
    end_to_lend();
    if (t_thread.vfork_shares) end_to_share();
    set_signal_mask(t_thread.vfork_mask, nullptr);
  }
  if (!raw::is_error(result)) return static_cast<pid_t>(result);
  errno = static_cast<int>(-result);
  return -1;
}

#if defined(__x86_64__)
asm(R"(
    .text
    .globl vfork
    .type vfork, @function
    .globl __vfork
    .type __vfork, @function
vfork:
__vfork:
    endbr64
    sub $8, %rsp
    call booster_before_vfork
    add $8, %rsp
    pop %rdi                    # our return address: the child overwrites the stack above
    mov $58, %eax               # SYS_vfork
    syscall
    push %rdi
    sub $8, %rsp
    test %eax, %eax
    jz 1f
    mov %rax, %rdi
    call booster_after_vfork
    add $8, %rsp
    ret
1:  call booster_in_vfork_child
    xor %eax, %eax
    add $8, %rsp
    ret
    .size vfork, .-vfork
    .size __vfork, .-__vfork
)");
#else
// POSIX allows vfork to be fork; only programs that rely on the shared memory would notice.
BOOSTER_EXPORT pid_t vfork(void) {
  return fork();
}
BOOSTER_EXPORT pid_t __vfork(void) {
  return fork();
}
#endif
