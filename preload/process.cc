#include "preload/process.h"

#include <linux/mman.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include <atomic>

#include "common/abi.h"
#include "preload/env.h"
#include "preload/file_table.h"
#include "preload/lifetime.h"
#include "preload/log.h"
#include "preload/pool.h"
#include "preload/settle.h"

namespace booster::preload {

__thread ThreadState t_thread __attribute__((tls_model("initial-exec"))) = {
    0, false, false, false, 0, 0, 0, false, ~uint64_t{0}, nullptr};

namespace {

enum : uint32_t { kWiped = 0, kOurs = 1, kResetting = 2 };

BOOSTER_AT_HAND constinit Mutex g_lock;
BOOSTER_AT_HAND constinit std::atomic<bool> g_ready{false};
BOOSTER_AT_HAND constinit std::atomic<bool> g_stopped{false};
BOOSTER_AT_HAND constinit std::atomic<bool> g_asynchronous_cancel{false};
BOOSTER_AT_HAND constinit Settings g_settings{};
/// In a page that the kernel zeroes in every child that does not share our memory.
BOOSTER_AT_HAND constinit std::atomic<std::atomic<uint32_t>*> g_marker{nullptr};

void copy_path(char* to, size_t size, const char* from) {
  strncpy(to, from, size - 1);
  to[size - 1] = '\0';
}

/// True if one of them has a value that means nothing.
bool read_settings() {
  g_settings.disabled = getauxval(AT_SECURE) != 0;
  auto get = [](const char* name) {
    // Once, before the program has threads of its own as a rule. NOLINTNEXTLINE(concurrency-*)
    const char* value = g_settings.disabled ? nullptr : getenv(name);
    return value != nullptr && value[0] != '\0' ? value : nullptr;
  };
  const char* log = get(env::kLogFile);
  copy_path(g_settings.log_path, sizeof(g_settings.log_path), log != nullptr ? log : "/dev/stderr");
  const char* socket = get(env::kSocket);
  copy_path(g_settings.socket_path, sizeof(g_settings.socket_path),
            socket != nullptr ? socket : common::kControlSocket);
  const char* engage = get(env::kEngage);
  g_settings.eager = engage != nullptr && strcmp(engage, "eager") == 0;
  return engage != nullptr && !g_settings.eager && strcmp(engage, "auto") != 0;
}

void make_ready() {
  LockGuard guard(g_lock);
  if (g_ready.load(std::memory_order_relaxed)) return;
  void* page = map_pages(4096);
  if (page != nullptr &&
      !raw::is_error(raw::raw_syscall(SYS_madvise, raw::word(page), 4096, MADV_WIPEONFORK))) {
    auto* marker = static_cast<std::atomic<uint32_t>*>(page);
    marker->store(kOurs, std::memory_order_relaxed);
    g_marker.store(marker, std::memory_order_release);
  }
  const bool strange = read_settings();
  g_files.prepare();
  // Without the marker a forked child could take its parent's session for its own.
  if (g_marker.load(std::memory_order_relaxed) == nullptr) g_settings.disabled = true;
  // Release: partner of the acquire in settings().
  g_ready.store(true, std::memory_order_release);
  // Needs the settings.
  if (strange) log_line("GLFS_BOOSTER_ENGAGE must be 'auto' or 'eager': using 'auto'");
}

void reset_in_child(std::atomic<uint32_t>& marker) {
  uint32_t wiped = kWiped;
  if (marker.compare_exchange_strong(wiped, kResetting, std::memory_order_acquire)) {
    g_lock.reset();
    g_files.reset();
    session_after_fork();
    settle_after_fork();
    leaving_after_fork();
    marker.store(kOurs, std::memory_order_release);
    return;
  }
  while (marker.load(std::memory_order_acquire) == kResetting) common::cpu_relax();
}

}  // namespace

const Settings& settings() {
  if (!g_ready.load(std::memory_order_acquire)) make_ready();
  return g_settings;
}

unsigned processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const long bytes = raw::raw_syscall(SYS_sched_getaffinity, 0, sizeof(set), raw::word(&set));
  return raw::is_error(bytes) ? 1 : static_cast<unsigned>(CPU_COUNT(&set));
}

Entry::Entry() {
  if (t_thread.depth != 0 || t_thread.vfork_child) return;
  if (g_stopped.load(std::memory_order_relaxed)) return;
  ++t_thread.depth;
  // What a handler looks at has to be there before anything else is done.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  inside_ = true;
  if (g_asynchronous_cancel.load(std::memory_order_relaxed)) [[unlikely]]
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &cancel_type_);
  if (settings().disabled) {
    leave();
    inside_ = false;
    return;
  }
  auto* marker = g_marker.load(std::memory_order_acquire);
  if (marker->load(std::memory_order_acquire) != kOurs) reset_in_child(*marker);
}

void Entry::restore_cancel_type() const {
  pthread_setcanceltype(cancel_type_, nullptr);
}

void note_asynchronous_cancel() {
  g_asynchronous_cancel.store(true, std::memory_order_relaxed);
}

void stop_boosting() {
  g_stopped.store(true, std::memory_order_relaxed);
}

}  // namespace booster::preload
