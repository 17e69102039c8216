// Interposers of what changes the process's own limits: a limit of file sizes is the kernel's to
// enforce, and booster looks for it no more than once in a tick of the coarse clock.
#include <sys/resource.h>

#include "preload/boosted_write.h"
#include "preload/interpose.h"

using booster::preload::note_limits_changed;

BOOSTER_NEXT(int, setrlimit, (__rlimit_resource_t, const struct rlimit*))
BOOSTER_NEXT(int, setrlimit64, (__rlimit_resource_t, const struct rlimit64*))
BOOSTER_NEXT(int, prlimit, (pid_t, enum __rlimit_resource, const struct rlimit*, struct rlimit*))
BOOSTER_NEXT(int, prlimit64,
             (pid_t, enum __rlimit_resource, const struct rlimit64*, struct rlimit64*))

BOOSTER_EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit* limit) {
  const int result = next_setrlimit()(resource, limit);
  note_limits_changed();
  return result;
}
BOOSTER_EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64* limit) {
  const int result = next_setrlimit64()(resource, limit);
  note_limits_changed();
  return result;
}
BOOSTER_EXPORT int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit* limit,
                           struct rlimit* before) {
  const int result = next_prlimit()(pid, resource, limit, before);
  note_limits_changed();
  return result;
}
BOOSTER_EXPORT int prlimit64(pid_t pid, enum __rlimit_resource resource,
                             const struct rlimit64* limit, struct rlimit64* before) {
  const int result = next_prlimit64()(pid, resource, limit, before);
  note_limits_changed();
  return result;
}
