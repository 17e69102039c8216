// Engages files: learns who the mount is and which file it is through FUSE, then opens it by gfid.
#include "daemon/gluster/mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <glusterfs/api/glfs-handles.h>
#include <glusterfs/api/glfs.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "daemon/gluster/fuse_file.h"
#include "daemon/stats/process.h"

namespace booster::daemon::gluster {

using common::Reason;

namespace {

constexpr const char kActiveVolfile[] = ".meta/graphs/active/volfile";

// Threads that ask the FUSE client of a mount, and that ask its bricks: enough that one slow file
// does not hold up the next, and flushes of several files of a disperse volume overlap.
constexpr unsigned kFuseThreads = 2;
constexpr unsigned kGfapiThreads = 4;
constexpr unsigned kFenceThreads = 2;
constexpr unsigned kLeaseThreads = 2;
constexpr unsigned kProbeThreads = 8;
constexpr unsigned kCompareThreads = 2;
// Each waits for one flush.
constexpr unsigned kProofThreads = 8;

bool is_on(int fd, dev_t dev) {
  struct statx status {};
  return ::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &status) == 0 &&
         makedev(status.stx_dev_major, status.stx_dev_minor) == dev;
}

/// The kernel's file_handle with room for FuseHandle.
struct KernelHandle {
  unsigned size;
  int type;
  unsigned char bytes[sizeof(FuseHandle::bytes)];
};
static_assert(offsetof(KernelHandle, bytes) == offsetof(file_handle, f_handle));

FuseHandle fuse_handle_of(int fd) {
  KernelHandle kernel{sizeof kernel.bytes, 0, {}};
  int mount_id = 0;
  FuseHandle handle;
  if (::name_to_handle_at(fd, "", reinterpret_cast<file_handle*>(&kernel), &mount_id,
                          AT_EMPTY_PATH) != 0) {
    return handle;
  }
  handle.type = kernel.type;
  handle.size = kernel.size;
  std::copy_n(kernel.bytes, handle.bytes.size(), handle.bytes.begin());
  return handle;
}

/// What was written through FUSE before the file was leased is with the bricks. The last close of
/// each description has waited for what was written through it. What a mapping wrote that was kept
/// longer may still be with write-behind, which this waits for, unless md-cache answers it: then
/// the next comparison with the bricks finds it.
bool is_written_out(int file) {
  struct statx status {};
  constexpr int kFlags = AT_EMPTY_PATH | AT_STATX_FORCE_SYNC;
  return ::statx(file, "", kFlags, STATX_BASIC_STATS, &status) == 0;
}

std::string device_name(dev_t dev) {
  return fmt::format("{}:{}", major(dev), minor(dev));
}

}  // namespace

Mount::Mount(MountPlace place, MountSettings settings, Gate& gate, std::shared_ptr<Worker> wakes)
    : place_(std::move(place)),
      settings_(std::move(settings)),
      gate_(gate),
      wakes_(std::move(wakes)),
      fuse_(std::make_shared<Worker>("fuse-" + device_name(place_.dev), kFuseThreads)),
      gfapi_(std::make_shared<Worker>("gfapi-" + device_name(place_.dev), kGfapiThreads)),
      fences_(std::make_shared<Worker>("fence-" + device_name(place_.dev), kFenceThreads,
                                       Worker::Descriptors::kOwn)),
      probes_(std::make_shared<Worker>("probe-" + device_name(place_.dev), kProbeThreads,
                                       Worker::Descriptors::kOwn)),
      leases_(settings_.leases
                  ? settings_.leases->make_worker("lease-" + device_name(place_.dev), kLeaseThreads)
                  : nullptr),
      proofs_(std::make_shared<Worker>("proof-" + device_name(place_.dev), kProofThreads)),
      compares_(std::make_shared<Worker>("compare-" + device_name(place_.dev), kCompareThreads)),
      open_files_(std::make_shared<std::atomic<int64_t>>(0)),
      mount_points_(place_.mount_points),
      idle_since_(Clock::now()) {}

Mount::~Mount() = default;

void Mount::engage(EngageOrder order) {
  // Keeps the mount from being idle from now until the answer.
  engaging_.fetch_add(1, std::memory_order_relaxed);
  std::shared_ptr<void> in_progress(nullptr, [self = shared_from_this()](void*) {
    self->engaging_.fetch_sub(1, std::memory_order_relaxed);
  });
  fuse_->post([self = shared_from_this(), order = std::move(order),
               in_progress = std::move(in_progress)]() mutable {
    self->identify_and_engage(order, in_progress);
  });
}

void Mount::identify_and_engage(EngageOrder& order, const std::shared_ptr<void>& in_progress) {
  if (!order.wanted()) return;
  Reason reason = identify();
  Wish wish;
  if (reason == Reason::kNone) {
    const auto mode = order.access_mode();
    if (mode) wish.access_mode = *mode;
    if (!mode) reason = mode.error();
  }
  if (reason == Reason::kNone && wish.access_mode != O_RDONLY) {
    const std::lock_guard lock(identity_mutex_);
    // The mount's own client refuses to write where the volume would not.
    if (options_.read_only) reason = Reason::kOpenFailed;
    // A write has to take them from the file, and only the kernel knows whether it has some.
    if (options_.capability) reason = Reason::kSetId;
  }
  if (reason != Reason::kNone) {
    order.done(Failure{reason});
    return;
  }
  // Answered by the FUSE client itself (fuse_getxattr in fuse-bridge.c), 16 raw bytes.
  const std::string path = fmt::format("/proc/self/fd/{}", order.file.get());
  const ssize_t n = ::getxattr(path.c_str(), "glusterfs.gfid", wish.gfid.data(), wish.gfid.size());
  if (n != static_cast<ssize_t>(wish.gfid.size())) {
    order.done(Failure{n < 0 && is_gone(errno) ? Reason::kUnlinked : Reason::kOpenFailed});
    return;
  }
  wish.fuse_handle = fuse_handle_of(order.file.get());
  order.file.reset();  // it keeps the mount busy
  wish.inode = order.inode;
  wish.since = Clock::now();
  wish.wanted = std::move(order.wanted);
  wish.done = std::move(order.done);
  wish.in_progress = in_progress;
  with_context(std::move(wish));
}

// --- for a program that was killed -------------------------------------------------------

Outcome<UniqueFd> Mount::open_through_fuse(Inode& inode, int flags) {
  KernelHandle kernel{};
  {
    const std::lock_guard lock(inode.mutex_);
    kernel.size = inode.fuse_handle_.size;
    kernel.type = inode.fuse_handle_.type;
    std::copy(inode.fuse_handle_.bytes.begin(), inode.fuse_handle_.bytes.end(), kernel.bytes);
  }
  const auto root = root_of_this_thread();
  if (!root) return Failure{root.error()};
  UniqueFd file(::open_by_handle_at(*root, reinterpret_cast<file_handle*>(&kernel),
                                    flags | O_CLOEXEC | O_NOFOLLOW));
  // ESTALE: the kernel holds nothing of it any more.
  if (!file && errno == ESTALE) return file;
  if (!file) return Failure{std::string("cannot open it: ") + strerrordesc_np(errno)};
  // FUSE's client makes it of the gfid, and the kernel has it: nobody is asked.
  struct statx status {};
  if (::statx(file.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &status) != 0 ||
      status.stx_ino != inode.number()) {
    return Failure{std::string("its handle is another file's by now")};
  }
  return file;
}

void Mount::fence(std::shared_ptr<Inode> inode, uint64_t offset, std::function<void(bool)> done) {
  // Release: partner of the acquire in fence_now(); what is to be fenced is on the bricks.
  const uint64_t number = inode->fences_asked_.fetch_add(1, std::memory_order_release) + 1;
  fences_->post([self = shared_from_this(), inode = std::move(inode), offset, number,
                 done = std::move(done)]() mutable {
    const std::string error = self->fence_now(*inode, offset, number);
    if (error.empty()) {
      spdlog::debug("event=fenced gfid={}", to_string(inode->gfid()));
    } else {
      spdlog::warn("event=fence-failed gfid={} error=\"{}\"", to_string(inode->gfid()), error);
    }
    done(error.empty());
    // The mount has descriptors, which cannot be closed here.
    const std::shared_ptr<Worker> elsewhere = self->fuse_;
    elsewhere->post([keep = std::move(self)] {});
  });
}

/// What is wrong; "" if nothing is.
std::string Mount::fence_now(Inode& inode, uint64_t offset, uint64_t number) {
  const std::lock_guard lock(inode.fencing_);
  if (inode.fences_done_ >= number) return "";
  const uint64_t asked = inode.fences_asked_.load(std::memory_order_acquire);
  const auto file = open_through_fuse(inode, O_RDWR);
  if (!file) return file.error();
  const long result = *file ? fence_again_and_again(file->get(), offset) : 0;
  if (result != 0) return strerrordesc_np(static_cast<int>(-result));
  inode.fences_done_ = asked;
  return "";
}

// --- who writes it -----------------------------------------------------------------------------

/// On its way from one worker to the next; let go where the common descriptors are.
struct Mount::Question {
  std::shared_ptr<Mount> mount;
  std::shared_ptr<File> file;
  std::function<void(Proof)> done;
  std::shared_ptr<Lease> lease;
};

void Mount::ask_bricks(const std::shared_ptr<Question>& question) {
  // A brick that hangs keeps these threads, and nobody else's.
  question->mount->compares_->post([question] {
    const auto attributes = question->file->attributes();
    if (attributes) {
      question->done(Unwritten{*attributes, question->lease});
    } else {
      question->done(Failure{Reason::kIoError});
    }
  });
}

void Mount::prove_unwritten(std::shared_ptr<File> file, bool proven,
                            std::function<void(Proof)> done) {
  const auto question = std::make_shared<Question>(
      Question{shared_from_this(), std::move(file), std::move(done), nullptr});
  if (question->file->inode()->is_split()) {
    return question->done(Failure{Reason::kNotProven});
  }
  // relaxed: once true it stays so, and was known before any file could be opened.
  if (!leases_ || wants_no_copies_.load(std::memory_order_relaxed)) {
    return question->done(Failure{Reason::kNotProven});
  }
  if (proven) return ask_bricks(question);
  // Not a copy of a constant, which could not be moved on.
  leases_->post([question = std::shared_ptr<Question>(question)]() mutable {
    Mount& mount = *question->mount;
    int number = -1;
    question->lease = mount.settings_.leases->hold(
        mount.leases_, question->file->inode(), [&mount, &question, &number] {
          auto opened = mount.open_through_fuse(*question->file->inode(), O_RDONLY);
          UniqueFd file = opened ? std::move(*opened) : UniqueFd();
          number = file.get();
          return file;
        });
    // First the lease, then the look: who opens it between the two is heard of.
    const bool proven_now = question->lease && is_written_out(number);
    const std::shared_ptr<Worker> elsewhere = mount.fuse_;
    elsewhere->post([question = std::move(question), proven_now] {
      if (proven_now) {
        ask_bricks(question);
      } else {
        question->done(Failure{Reason::kNotProven});
      }
    });
  });
}

void Mount::prove_alone(std::shared_ptr<File> file, AloneQuestion question) {
  // Marking a file may ask FUSE whether it may be read.
  proofs_->post([self = shared_from_this(), file = std::move(file),
                 question = std::move(question)]() mutable {
    const std::shared_ptr<Inode> inode = file->inode();
    if (!self->trusts_root_.load(std::memory_order_relaxed) || inode->is_split()) {
      return question.done({Reason::kNotProven, 0}, nullptr);
    }
    const auto place = self->open_through_fuse(*inode, O_PATH);
    if (!place || !*place) return question.done({Reason::kNotProven, 0}, nullptr);
    // First the mark, then the look: who opens it between the two is heard of.
    auto watch = OpenWatch::start(
        *self->settings_.privileges, place->get(), std::move(question.opened),
        [&question, &place](int group) { return question.guard(place->get(), group); });
    if (!watch) {
      spdlog::debug("event=no-open-watch error=\"{}\"", watch.error().message());
      return question.done({Reason::kLimit, 0}, nullptr);
    }
    const Alone alone = question.prove();
    if (alone.reason != Reason::kNone) return question.done(alone, nullptr);
    self->compares_->post([file = std::move(file), done = std::move(question.done),
                           watch = std::move(*watch)]() mutable {
      const auto attributes = file->attributes();
      if (!attributes) return done({Reason::kIoError, 0}, nullptr);
      file->inode()->set_size(attributes->size);
      done({}, std::move(watch));
    });
  });
}

void Mount::probe(std::shared_ptr<Inode> inode, std::function<void(bool)> done) {
  probes_->post([self = shared_from_this(), inode = std::move(inode),
                 done = std::move(done)]() mutable {
    const auto file = self->open_through_fuse(*inode, O_PATH);
    const bool answers =
        file && *file &&
        ask_bricks_through_fuse(fmt::format("/proc/thread-self/fd/{}", file->get()).c_str()) == 0;
    self->wakes_->post(
        [self, inode = std::move(inode), done = std::move(done), answers] { done(answers); });
    const std::shared_ptr<Worker> elsewhere = self->fuse_;
    elsewhere->post([keep = std::move(self)] {});
  });
}

// --- who the mount is --------------------------------------------------------------------

void Mount::note_place(const MountPlace& place) {
  const std::lock_guard lock(mutex_);
  mount_points_ = place.mount_points;
}

Outcome<int> Mount::root() {
  const std::lock_guard lock(root_mutex_);
  if (root_) return root_.get();
  if (has_own_descriptors()) return Failure{std::string("not open yet")};
  if (!settings_.privileges) return Failure{std::string("the daemon has no CAP_SYS_ADMIN")};
  std::vector<std::string> mount_points;
  {
    const std::lock_guard places_lock(mutex_);
    mount_points = mount_points_;
  }
  for (const std::string& mount_point : mount_points) {
    const UniqueFd top(::open(mount_point.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    // Something else may be mounted over it by now, perhaps a hostile FUSE: it is asked nothing.
    if (!top || !is_on(top.get(), place_.dev)) continue;
    auto clone = settings_.privileges->clone_mount(top.get());
    if (!clone) return Failure{"cannot mount it once more: " + clone.error().message()};
    UniqueFd root(::openat(clone->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) return Failure{std::string("cannot open its root: ") + strerrordesc_np(errno)};
    clone_ = std::move(*clone);
    root_ = std::move(root);
    return root_.get();
  }
  return Failure{std::string("no mount point shows the root of the volume")};
}

/// Where the thread has descriptors of its own, one of those. A thread serves one mount.
Outcome<int> Mount::root_of_this_thread() {
  auto common = root();
  if (!common || !has_own_descriptors()) return common;
  thread_local UniqueFd mine;
  if (!mine) {
    // /proc/self is the process's first thread, whose descriptors are the common ones.
    mine.reset(::open(fmt::format("/proc/self/fd/{}", *common).c_str(),
                      O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  if (!mine) return Failure{std::string("cannot open the root: ") + strerrordesc_np(errno)};
  return mine.get();
}

Outcome<std::string> Mount::read_meta(const char* name) {
  const auto top = root();
  if (!top) return Failure{top.error()};
  const UniqueFd file(::openat(*top, name, O_RDONLY | O_CLOEXEC));
  if (!file || !is_on(file.get(), place_.dev)) {
    return Failure{fmt::format("cannot open {}: {}", name, strerrordesc_np(errno))};
  }
  std::string text;
  constexpr size_t kLimit = size_t{16} << 20;
  char buffer[65536];
  while (text.size() < kLimit) {
    const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
    if (n == 0) break;
    if (n < 0) return Failure{fmt::format("cannot read {}: {}", name, strerrordesc_np(errno))};
    text.append(buffer, static_cast<size_t>(n));
  }
  if (text.empty()) return Failure{fmt::format("{} is empty", name)};
  return text;
}

/// The order's descriptor keeps the device number for the mount that has it now, until this one's
/// own mount of it does (root()).
Reason Mount::identify() {
  if (retired()) return Reason::kNotGenuine;
  const std::lock_guard lock(identity_mutex_);
  if (!identified_) {
    const auto cmdline = read_meta(".meta/cmdline");
    if (!cmdline) {
      spdlog::warn("event=mount-unknown dev={} error=\"{}\"", device_name(place_.dev),
                   cmdline.error());
      return Reason::kContextFailed;
    }
    const auto volfile = read_meta(kActiveVolfile);
    if (!volfile) {
      spdlog::warn("event=mount-unknown dev={} error=\"{}\"", device_name(place_.dev),
                   volfile.error());
      return Reason::kContextFailed;
    }
    options_ = parse_meta_cmdline(*cmdline);
    if (options_.wants_no_copies) wants_no_copies_.store(true, std::memory_order_relaxed);
    if (is_sharded(*volfile)) found_sharded(nullptr);
    identified_ = true;
  }
  if (sharded_.load(std::memory_order_relaxed)) return Reason::kContextFailed;
  return options_.writeback_cache ? Reason::kWritebackCache : Reason::kNone;
}

void Mount::retire() {
  retired_.store(true, std::memory_order_release);
}

// --- context -----------------------------------------------------------------------------

void Mount::with_context(Wish wish) {
  std::shared_ptr<Context> context;
  bool build = false;
  bool refuse = false;
  {
    const std::lock_guard lock(mutex_);
    switch (state_) {
      case ContextState::kReady: context = context_; break;
      case ContextState::kFailed: {
        const std::chrono::seconds pause(settings_.retry_seconds->load(std::memory_order_relaxed));
        refuse = Clock::now() - failed_at_ < pause;
        build = !refuse;
        break;
      }
      case ContextState::kNone:
      case ContextState::kClosing: build = true; break;
      case ContextState::kBuilding: break;
    }
    if (build) state_ = ContextState::kBuilding;
    if (!context && !refuse) waiting_.push_back(std::move(wish));
  }
  if (refuse) {
    // NOLINTNEXTLINE(bugprone-use-after-move): moved only if not refused.
    wish.done(Failure{Reason::kContextFailed});
  } else if (build) {
    start_build();
  } else if (context) {
    gfapi_->post([self = shared_from_this(), wish = std::move(wish), context] {
      self->open_and_answer(wish, context);
    });
  }
}

void Mount::start_build() {
  // A thread of its own: while it hangs, the workers go on, and orders are refused in tick(). If it
  // succeeds late, later orders use the context; no second one is tried before.
  const bool started = run_detached("glfs-init", [self = shared_from_this()] {
    Outcome<std::shared_ptr<Context>> result = Failure{std::string()};
    try {
      MountOptions options;
      {
        const std::lock_guard lock(self->identity_mutex_);
        options = self->options_;
      }
      result = Context::build(options, self->settings_.context,
                              [&self] { return self->read_meta(kActiveVolfile); });
    } catch (const std::exception& e) {
      result = Failure{std::string(e.what())};
    }
    self->build_finished(std::move(result));
  });
  if (!started) build_finished(Failure{std::string("no thread can be started")});
}

void Mount::build_finished(Outcome<std::shared_ptr<Context>> result) {
  std::vector<Wish> waiting;
  std::shared_ptr<Context> context;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(waiting_);
    if (result) {
      context = context_ = *result;
      state_ = ContextState::kReady;
      error_.clear();
      ++contexts_built_;
      cost_ = context->cost();
      from_server_ = context->from_server();
    } else {
      state_ = ContextState::kFailed;
      error_ = result.error();
      failed_at_ = Clock::now();
    }
    idle_since_ = Clock::now();
  }
  if (!context) {
    spdlog::warn("event=context-failed dev={} source={} error=\"{}\"", device_name(place_.dev),
                 place_.source, result.error());
    for (const Wish& wish : waiting) wish.done(Failure{Reason::kContextFailed});
    return;
  }
  const ContextCost& cost = context->cost();
  spdlog::info(
      "event=context-ready dev={} source={} volfile={} disperse={} seconds={:.3f} threads={} "
      "resident_bytes={} connections={}",
      device_name(place_.dev), place_.source, context->from_server() ? "server" : "mount",
      context->disperse(), cost.build_time.count(), cost.threads, cost.resident_bytes,
      cost.connections);
  for (Wish& wish : waiting) {
    gfapi_->post([self = shared_from_this(), wish = std::move(wish), context] {
      self->open_and_answer(wish, context);
    });
  }
}

// --- a volume that becomes sharded -------------------------------------------------------

void Mount::found_sharded(Context* context) {
  if (context) context->condemn();
  if (sharded_.exchange(true, std::memory_order_relaxed)) return;
  {
    const std::lock_guard lock(mutex_);
    error_ = kShardedMessage;
  }
  spdlog::info("event=mount-refused dev={} source={} reason=\"{}\"", device_name(place_.dev),
               place_.source, kShardedMessage);
}

void Mount::look_for_shards(const std::shared_ptr<Context>& context, bool in_use) {
  // A context without volfile servers hears of no change, but the mount may. It is asked only while
  // files of it are open, which keep it busy anyway.
  if (context->condemned() || (!context->from_server() && !in_use)) return;
  // One at a time: they wait when the mount or the bricks hang.
  if (looking_.exchange(true, std::memory_order_relaxed)) return;
  const std::shared_ptr<void> look(nullptr, [self = shared_from_this()](void*) {
    self->looking_.store(false, std::memory_order_relaxed);
  });
  if (context->from_server()) {
    gfapi_->post([self = shared_from_this(), context, look] {
      if (is_sharded(context->volfile())) self->found_sharded(context.get());
    });
  } else {
    fuse_->post([self = shared_from_this(), context, look] {
      const auto volfile = self->read_meta(kActiveVolfile);
      if (volfile && is_sharded(*volfile)) self->found_sharded(context.get());
    });
  }
}

// --- house keeping -----------------------------------------------------------------------

void Mount::tick() {
  std::vector<Wish> late;
  std::shared_ptr<Context> ready;
  bool used = false;
  std::shared_ptr<Context> idle;  // destroyed after the lock is gone
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    const std::chrono::seconds patience(
        settings_.build_timeout_seconds->load(std::memory_order_relaxed));
    const auto on_time = std::partition(waiting_.begin(), waiting_.end(), [&](const Wish& wish) {
      return now - wish.since < patience;
    });
    std::move(on_time, waiting_.end(), std::back_inserter(late));
    waiting_.erase(on_time, waiting_.end());

    used = engaging_.load(std::memory_order_relaxed) > 0 ||
           open_files_->load(std::memory_order_relaxed) > 0;
    if (used) {
      idle_since_ = now;
    } else if (state_ == ContextState::kReady &&
               (retired() || now - idle_since_ >= std::chrono::seconds(settings_.idle_seconds->load(
                                                      std::memory_order_relaxed)))) {
      idle.swap(context_);
      state_ = ContextState::kNone;
    }
    ready = context_;
    if (!used) {
      for (auto it = inodes_.begin(); it != inodes_.end();) {
        it = it->second.expired() ? inodes_.erase(it) : std::next(it);
      }
    }
  }
  for (const Wish& wish : late) wish.done(Failure{Reason::kContextFailed});
  for (const auto& worker : {fuse_, gfapi_, fences_, probes_, leases_, proofs_, compares_})
    if (worker) worker->serve_waiting();
  if (ready) look_for_shards(ready, used);
  if (idle)
    spdlog::info("event=context-idle dev={} source={}", device_name(place_.dev), place_.source);
}

// --- opening -----------------------------------------------------------------------------

std::shared_ptr<Inode> Mount::inode_for(const Wish& wish) {
  const std::lock_guard lock(mutex_);
  std::weak_ptr<Inode>& entry = inodes_[wish.gfid];
  std::shared_ptr<Inode> inode = entry.lock();
  if (!inode) {
    inode = std::make_shared<Inode>(place_.dev, wish.inode, wish.gfid);
    entry = inode;
  }
  // Dead entries go when as many have come as there are live ones, so that it costs next to
  // nothing.
  if (inodes_.size() >
      2 * static_cast<size_t>(open_files_->load(std::memory_order_relaxed)) + 1024) {
    std::erase_if(inodes_, [](const auto& item) { return item.second.expired(); });
  }
  return inode;
}

void Mount::open_and_answer(const Wish& wish, const std::shared_ptr<Context>& context) {
  if (!wish.wanted()) return;
  wish.done(open(wish, context));
}

void Mount::look_for_trust(glfs_t* volume, glfs_object_t* file) {
  // relaxed: once true it stays so.
  if (trusts_root_.load(std::memory_order_relaxed)) return;
  constexpr id_t kNobody = 65534;  // server.anonuid, server.anongid
  // Only root may write it, and the daemon may: the volume does not map root to nobody, so that
  // whatever a program can open the daemon can, too.
  const auto proves = [volume](glfs_object_t* object) {
    struct stat status {};
    return glfs_h_stat(volume, object, &status) == 0 && (status.st_mode & S_IWOTH) == 0 &&
           status.st_uid != kNobody && status.st_gid != kNobody &&
           glfs_h_access(volume, object, W_OK) == 0;
  };
  bool trusted = proves(file);
  if (!trusted) {
    struct stat status {};
    glfs_object_t* top = glfs_h_lookupat(volume, nullptr, "/", &status, 0);
    trusted = top && proves(top);
    if (top) glfs_h_close(top);
  }
  if (trusted) trusts_root_.store(true, std::memory_order_relaxed);
}

Mount::Answer Mount::open(const Wish& wish, const std::shared_ptr<Context>& context) {
  if (is_sharded(context->volfile())) found_sharded(context.get());
  if (context->condemned()) return Failure{Reason::kContextFailed};
  const std::shared_ptr<Inode> inode = inode_for(wish);
  const auto mode = static_cast<size_t>(wish.access_mode);
  std::shared_ptr<File> file;
  {
    const std::lock_guard lock(inode->mutex_);
    file = inode->files_[mode].lock();
    if (file && file->context_ != context) file.reset();
  }
  struct stat status {};
  if (file) {
    if (glfs_fstat(file->fd_, &status) != 0) return Failure{Reason::kOpenFailed};
  } else {
    Gfid gfid = wish.gfid;
    glfs_object_t* object = glfs_h_create_from_handle(context->fs(), gfid.data(),
                                                      static_cast<int>(gfid.size()), &status);
    if (!object) {
      return Failure{is_gone(errno) ? Reason::kUnlinked : Reason::kOpenFailed};
    }
    // Only the access mode: the kernel has done what else the program's open asked for.
    glfs_fd_t* fd = glfs_h_open(context->fs(), object, wish.access_mode);
    const int error = errno;
    if (fd) look_for_trust(context->fs(), object);
    glfs_h_close(object);
    if (!fd) {
      spdlog::info("event=open-failed gfid={} error=\"{}\"", to_string(wish.gfid),
                   strerrordesc_np(error));
      return Failure{is_gone(error) ? Reason::kUnlinked : Reason::kOpenFailed};
    }
    file = std::make_shared<File>(inode, context, gfapi_, gate_, fd, wish.access_mode, open_files_);
  }

  if (!S_ISREG(status.st_mode)) return Failure{Reason::kNotRegular};
  if (status.st_nlink == 0) return Failure{Reason::kUnlinked};
  // The kernel takes these rights away when an ordinary user writes; through booster root writes.
  if (set_id_bits(status.st_mode) != 0 && wish.access_mode != O_RDONLY)
    return Failure{Reason::kSetId};

  bool is_new = false;
  {
    const std::lock_guard lock(inode->mutex_);
    const std::shared_ptr<File> other = inode->files_[mode].lock();
    is_new = !other || other->context_ != context;
    if (is_new) {
      inode->files_[mode] = file;
    } else {
      file =
          other;  // opened before, or meanwhile by another worker thread; then ours closes itself
    }
  }
  inode->set_size(static_cast<uint64_t>(status.st_size));
  inode->note_opened(file, is_new, wish.fuse_handle);
  return file;
}

bool Mount::has(const Inode& inode) {
  const std::lock_guard lock(mutex_);
  const auto found = inodes_.find(inode.gfid());
  return found != inodes_.end() && found->second.lock().get() == &inode;
}

MountReport Mount::report() {
  MountReport report;
  const std::lock_guard lock(mutex_);
  report.place = place_;
  report.place.mount_points = mount_points_;
  report.state = retired() && state_ == ContextState::kReady ? ContextState::kClosing : state_;
  report.error = error_;
  report.from_server = from_server_;
  report.contexts_built = contexts_built_;
  report.open_files = static_cast<uint64_t>(open_files_->load(std::memory_order_relaxed));
  for (const auto& [gfid, entry] : inodes_) {
    const auto inode = entry.lock();
    report.engaged_inodes += inode && inode->is_open() ? 1 : 0;
  }
  if (report.open_files == 0 && engaging_.load(std::memory_order_relaxed) == 0) {
    report.idle_seconds = std::chrono::duration<double>(Clock::now() - idle_since_).count();
  }
  report.cost = cost_;
  return report;
}

}  // namespace booster::daemon::gluster
