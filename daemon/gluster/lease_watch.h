// Read leases that the daemon holds: as long as one is there, nobody on this host has the file open
// for writing, and whoever is about to, or to cut it by name, waits until it is given back.
//
// The kernel asks the holder by a signal, which is given to one thread, and that gives the lease
// back as soon as the listener has heard of it. It asks no brick and opens nothing, so that
// readers, and writers when bricks are down, get from FUSE what they get without a lease
// (docs/open-watch.md).
//
// The kernel knows a lease by the descriptor that it was taken on. Opening and closing those waits
// for FUSE, giving a lease back does not; all of it is done in one table of descriptors, which the
// thread of the signals and the workers of the mounts share, and nobody else: a thread that hangs
// in closing keeps nothing open but leases. When the daemon is killed while one does, the kernel
// breaks them by itself, after fs.lease-break-time (45 s).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/page_cache.h"
#include "daemon/gluster/file.h"
#include "daemon/gluster/worker.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::gluster {

/// A lease, or what is left of one that was broken. Its end gives it back. Any thread.
class Lease {
 public:
  virtual ~Lease() = default;
};

/// One for the daemon. Any thread.
class LeaseWatch : public std::enable_shared_from_this<LeaseWatch> {
 public:
  /// Starts its thread, which shows in `life`, all zero, that it lives; null, and the failure is
  /// logged, if there is none to be had.
  static std::shared_ptr<LeaseWatch> start(common::WatchWord& life);
  ~LeaseWatch();
  LeaseWatch(const LeaseWatch&) = delete;
  LeaseWatch& operator=(const LeaseWatch&) = delete;

  /// The daemon ends: gives all of them back, and holds no other. Nothing may rely on one any more.
  void give_all_back();

  /// A worker whose threads share the table of the leases.
  std::shared_ptr<Worker> make_worker(const std::string& name, unsigned threads);

  /// On a thread of such a worker, `closer`: takes a lease on what `open` opens for reading there,
  /// a descriptor, and keeps both until the lease goes. Null: somebody has the file open for
  /// writing, or it cannot be opened. `inode`'s WriterListener hears of whoever breaks it.
  std::shared_ptr<Lease> hold(const std::shared_ptr<Worker>& closer,
                              const std::shared_ptr<Inode>& inode,
                              const std::function<UniqueFd()>& open);

 private:
  struct State;
  class Held;
  explicit LeaseWatch(std::shared_ptr<State> state) : state_(std::move(state)) {}

  const std::shared_ptr<State> state_;  // shared with the thread
};

}  // namespace booster::daemon::gluster
