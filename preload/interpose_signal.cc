// Interposers of what installs signal handlers (signals.h), of what lets a thread be cancelled in
// the middle of anything, and of signals by which a process ends itself.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "preload/interpose.h"
#include "preload/signals.h"

using namespace booster::preload;

BOOSTER_NEXT(int, sigaction, (int, const struct sigaction*, struct sigaction*))
BOOSTER_NEXT(sighandler_t, signal, (int, sighandler_t))
BOOSTER_NEXT(sighandler_t, sysv_signal, (int, sighandler_t))
BOOSTER_NEXT(sighandler_t, sigset, (int, sighandler_t))
BOOSTER_NEXT(int, pthread_setcanceltype, (int, int*))
BOOSTER_NEXT(int, pthread_kill, (pthread_t, int))
BOOSTER_NEXT(int, raise, (int))
BOOSTER_NEXT(void, abort, (void))

namespace booster::preload {

int next_action(int number, const struct sigaction* action, struct sigaction* old) {
  return next_sigaction()(number, action, old);
}

}  // namespace booster::preload

namespace {

/// libc's own functions that install handlers do not come by sigaction().
template <typename Install>
sighandler_t install(int number, Install next) {
  const sighandler_t before = known_handler(number);
  return follow_action(number, before, next());
}

}  // namespace

BOOSTER_EXPORT int sigaction(int number, const struct sigaction* action, struct sigaction* old) {
  return change_action(number, action, old);
}
BOOSTER_EXPORT int __sigaction(int number, const struct sigaction* action, struct sigaction* old) {
  return change_action(number, action, old);
}
BOOSTER_EXPORT sighandler_t signal(int number, sighandler_t handler) {
  return install(number, [=] { return next_signal()(number, handler); });
}
BOOSTER_EXPORT sighandler_t bsd_signal(int number, sighandler_t handler) {
  return signal(number, handler);
}
BOOSTER_EXPORT sighandler_t ssignal(int number, sighandler_t handler) {
  return signal(number, handler);
}
BOOSTER_EXPORT sighandler_t sysv_signal(int number, sighandler_t handler) {
  return install(number, [=] { return next_sysv_signal()(number, handler); });
}
BOOSTER_EXPORT sighandler_t __sysv_signal(int number, sighandler_t handler) {
  return sysv_signal(number, handler);
}
BOOSTER_EXPORT sighandler_t sigset(int number, sighandler_t handler) {
  return install(number, [=] { return next_sigset()(number, handler); });
}

BOOSTER_EXPORT int pthread_setcanceltype(int type, int* old) {
  if (type == PTHREAD_CANCEL_ASYNCHRONOUS) note_asynchronous_cancel();
  return next_pthread_setcanceltype()(type, old);
}

namespace {

/// A signal that the process is about to get, by which it may end. `mine`: this thread alone gets
/// it, and if it has blocked it, somebody waits for it.
template <typename Send>
int send(int number, bool mine, Send send) {
  if (!maybe_boosted() || !would_end(number)) return send();
  uint64_t mask = 0;
  if (mine) get_signal_mask(mask);
  if ((mask >> (number - 1) & 1) != 0) return send();
  const Leaving leaving;
  return send();
}

}  // namespace

BOOSTER_EXPORT int raise(int number) {
  return send(number, true, [=] { return next_raise()(number); });
}
BOOSTER_EXPORT int gsignal(int number) {
  return raise(number);
}
BOOSTER_EXPORT int pthread_kill(pthread_t thread, int number) {
  const auto next = [=] { return next_pthread_kill()(thread, number); };
  return pthread_equal(thread, pthread_self()) != 0 ? send(number, true, next) : next();
}
BOOSTER_EXPORT int kill(pid_t process, int number) {
  const auto call = [=] { return raw::as_libc(raw::raw_syscall(SYS_kill, process, number)); };
  // Others, and groups that it may be in.
  const bool other = process > 0 && process != raw::raw_syscall(SYS_getpid);
  return other ? call() : send(number, false, call);
}
BOOSTER_EXPORT void abort(void) {
  // Whatever is done about the signal, unless a handler of it jumps.
  if (maybe_boosted() && known_handler(SIGABRT) == SIG_DFL) {
    const Leaving leaving;
    next_abort()();
    __builtin_unreachable();
  }
  settle_process();
  next_abort()();
  __builtin_unreachable();
}
