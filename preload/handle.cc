#include "preload/handle.h"

#include <fcntl.h>

#include "preload/cache_view.h"
#include "preload/log.h"
#include "preload/process.h"
#include "preload/stdio_tables.h"

namespace booster::preload {

using common::Reason;

namespace {

/// Longer than a busy disk below the bricks holds up a file that is being made (seen: 10 s). Only
/// for GLFS_BOOSTER_ENGAGE=eager.
constexpr uint32_t kEagerWaitMs = 60'000;
constinit std::atomic<bool> g_waited_in_vain{false};

/// Two descriptions of one file, of which one is stdin, stdout or stderr: stdio may use that one
/// inside libc, where nobody sees it.
bool aliased_by_stdio(const Description& description, int fd) {
  const long flags = raw::status_flags(fd);
  for (int std_fd = 0; std_fd <= 2; ++std_fd) {
    raw::FileId id;
    if (std_fd == fd || !raw::identify(std_fd, id) || !(id == description.inode->id)) continue;
    if (Description* other = g_files.acquire_known(std_fd)) {
      g_files.release(other);
      if (other == &description) continue;
    }
    const long other_flags = raw::status_flags(std_fd);
    if ((flags & O_ACCMODE) != O_RDONLY || (other_flags & O_ACCMODE) != O_RDONLY) return true;
  }
  return false;
}

/// Writes the handle that readers without the lock may be copying.
void set_handle(Description& description, const HandleRef& handle) {
  description.writing.held.store(0, std::memory_order_relaxed);
  description.writing.asked = false;
  Description* self = &description;
  description.inode->holder.compare_exchange_strong(self, nullptr, std::memory_order_relaxed);
  description.handle_version.fetch_add(1, std::memory_order_relaxed);
  // Release, partner of the acquire fence in copy_handle(): who copies a part of this sees that.
  std::atomic_thread_fence(std::memory_order_release);
  std::atomic_ref(description.handle.session).store(handle.session, std::memory_order_relaxed);
  std::atomic_ref(description.handle.slot).store(handle.slot, std::memory_order_relaxed);
  std::atomic_ref(description.handle.generation)
      .store(handle.generation, std::memory_order_relaxed);
  description.handle_version.fetch_add(1, std::memory_order_release);
}

void refuse(Description& description, Reason reason) {
  description.refused = reason;
  description.stage.store(Description::kRefused, std::memory_order_release);
}

/// Takes the page cache that came with a handle.
void adopt_cache(Session& session, Description& description, const HandleRef& handle) {
  if (!session.may_read(handle)) return;
  Inode& inode = *description.inode;
  if (CacheView* view = session.take_view(handle)) {
    CacheView* current = inode.view.load(std::memory_order_acquire);
    // Another description of the file has brought the same.
    if (current != nullptr && current->identity == view->identity &&
        current->session == view->session && current->bytes >= view->bytes) {
      unmap_view(view);
    } else {
      do {
        view->older = current;
      } while (!inode.view.compare_exchange_weak(current, view, std::memory_order_acq_rel));
      // Nothing is read unseen any more by who has not seen it.
      g_views_made.fetch_add(1, std::memory_order_release);
    }
  }
  // A description that can write has no read delegation, which would be one against itself. A view
  // of an earlier session is of a daemon that is dead.
  const CacheView* view = inode.view.load(std::memory_order_acquire);
  description.reading.cached.store(
      view != nullptr && view->session == &session && !session.may_write(handle),
      std::memory_order_release);
}

}  // namespace

bool copy_handle(Description& description, const Session& session, HandleRef& handle) {
  const uint32_t version = description.handle_version.load(std::memory_order_acquire);
  // Acquire: partner of the release when the stage was stored; the slot's answer has been seen.
  if (description.stage.load(std::memory_order_acquire) != Description::kReady) return false;
  handle.session = std::atomic_ref(description.handle.session).load(std::memory_order_relaxed);
  handle.slot = std::atomic_ref(description.handle.slot).load(std::memory_order_relaxed);
  handle.generation =
      std::atomic_ref(description.handle.generation).load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  return (version & 1) == 0 && handle.session == session.id() &&
         description.handle_version.load(std::memory_order_relaxed) == version;
}

uint32_t eager_wait_ms() {
  return settings().eager && !g_waited_in_vain.load(std::memory_order_relaxed) ? kEagerWaitMs : 0;
}

void note_waited_in_vain() {
  if (g_waited_in_vain.exchange(true, std::memory_order_relaxed)) return;
  log_line("boosterd has not answered for a minute: no call of this program waits for it any more");
}

Reason advance_handle(Session& session, Description& description, int fd) {
  // One of an earlier session has gone with that.
  if (description.stage.load(std::memory_order_relaxed) != Description::kNone &&
      description.handle.session != session.id()) {
    description.stage.store(Description::kNone, std::memory_order_relaxed);
  }
  Reason reason = Reason::kPending;
  const uint64_t wait_ms = eager_wait_ms();
  const uint64_t deadline = wait_ms != 0 ? raw::now_us() + wait_ms * 1000 : 0;
  const raw::Patience patience;
  while (true) {
    switch (description.stage.load(std::memory_order_relaxed)) {
      case Description::kReady: return Reason::kNone;
      case Description::kRefused: return description.refused;
      case Description::kNone: {
        HandleRef handle;
        // Streams that are not seen might use the file inside libc.
        const bool aliased = !hook_streams() && aliased_by_stdio(description, fd);
        if (aliased || !session.engage(fd, description.inode->id, handle, reason)) {
          if (aliased) reason = Reason::kStream;
          if (reason == Reason::kNoDaemon) {
            session.alive();  // if not, the next question goes to the next daemon
            return reason;
          }
          set_handle(description, {session.id(), 0, 0});
          refuse(description, reason);
          return reason;
        }
        set_handle(description, handle);
        description.stage.store(Description::kPending, std::memory_order_release);
        break;
      }
      case Description::kPending:
        switch (session.answer(description.handle, reason)) {
          case Session::Answer::kReady:
            adopt_cache(session, description, description.handle);
            // Release: partner of the acquire in copy_handle().
            description.stage.store(Description::kReady, std::memory_order_release);
            break;
          case Session::Answer::kRefused: refuse(description, reason); break;
          case Session::Answer::kLost:
            description.stage.store(Description::kNone, std::memory_order_release);
            return Reason::kNoDaemon;
          case Session::Answer::kPending:
            if (deadline == 0 || !session.alive_lately()) return Reason::kPending;
            if (raw::now_us() > deadline) {
              note_waited_in_vain();
              return Reason::kPending;
            }
            patience.sleep();
            break;
        }
        break;
    }
  }
}

bool still_names(int fd, const Inode& inode) {
  raw::FileId id;
  return raw::identify(fd, id) && id == inode.id;
}

}  // namespace booster::preload
