// Reads and writes on open libgfapi descriptors, and what their answers tell.
#include "daemon/gluster/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <glusterfs/api/glfs.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "daemon/gluster/gfapi_guard.h"

namespace booster::daemon::gluster {

size_t GfidHash::operator()(const Gfid& gfid) const {
  size_t hash = 0;
  std::memcpy(&hash, gfid.data() + 8, sizeof hash);
  return hash;
}

std::string to_string(const Gfid& gfid) {
  std::string text;
  for (size_t i = 0; i < gfid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", gfid[i]);
  }
  return text;
}

// --- Inode -------------------------------------------------------------------------------

uint64_t Inode::size() {
  const std::lock_guard lock(mutex_);
  return size_;
}

void Inode::add_size_word(const SizeWord& word) {
  const std::lock_guard lock(mutex_);
  // relaxed: a hint, and published with the handle's state word.
  word->store(size_, std::memory_order_relaxed);
  size_words_.insert(word);
}

void Inode::remove_size_word(const SizeWord& word) {
  const std::lock_guard lock(mutex_);
  size_words_.erase(word);
}

bool Inode::is_open() {
  const std::lock_guard lock(mutex_);
  return std::any_of(files_.begin(), files_.end(),
                     [](const std::weak_ptr<File>& file) { return !file.expired(); });
}

void Inode::set_writer_listener(std::weak_ptr<WriterListener> listener) {
  const std::lock_guard lock(mutex_);
  writer_listener_ = std::move(listener);
}

void Inode::note_opened(const std::shared_ptr<File>& file, bool is_new, const FuseHandle& handle) {
  bool moved = false;
  {
    const std::lock_guard lock(mutex_);
    moved = fuse_handle_.size != 0 && fuse_handle_ != handle;
    const auto is_others = [&](const std::weak_ptr<File>& entry) {
      const std::shared_ptr<File> other = entry.lock();
      return other && !(is_new && other == file);
    };
    split_ = split_ || (moved && std::any_of(files_.begin(), files_.end(), is_others));
    fuse_handle_ = handle;
  }
  if (moved || file->access_mode() != O_RDONLY) writer_opens();
}

bool Inode::delegate_to(const std::weak_ptr<const void>& owner) {
  const std::lock_guard lock(mutex_);
  if (!delegated_to_.expired()) return false;
  delegated_to_ = owner;
  return true;
}

bool Inode::is_split() {
  const std::lock_guard lock(mutex_);
  return split_;
}

std::shared_ptr<WriterListener> Inode::writer_opens() {
  std::shared_ptr<WriterListener> listener;
  {
    const std::lock_guard lock(mutex_);
    listener = writer_listener_.lock();
  }
  if (listener) listener->writer_opens();
  return listener;
}

void Inode::note_size(const struct glfs_stat* status, uint64_t version) {
  if (!status || (status->glfs_st_mask & GLFS_STAT_SIZE) == 0) return;
  const auto size = static_cast<uint64_t>(status->glfs_st_size);
  const int64_t seconds = status->glfs_st_ctime.tv_sec;
  const int64_t nanoseconds = status->glfs_st_ctime.tv_nsec;

  const std::lock_guard lock(mutex_);
  // Answers overtake each other. One that was asked for after the last that counted is newer than
  // it; of two that were under way together the later ctime is, or of equal ones the larger.
  const uint64_t current = size_version_.load(std::memory_order_relaxed);  // written under mutex_
  const bool newer =
      version == current || seconds > size_seconds_ ||
      (seconds == size_seconds_ &&
       (nanoseconds > size_nanoseconds_ || (nanoseconds == size_nanoseconds_ && size > size_)));
  if (!newer) return;
  size_seconds_ = seconds;
  size_nanoseconds_ = nanoseconds;
  if (size != size_) show_size(size);
}

void Inode::set_size(uint64_t size) {
  const std::lock_guard lock(mutex_);
  show_size(size);
}

void Inode::show_size(uint64_t size) {
  size_ = size;
  size_version_.fetch_add(1, std::memory_order_relaxed);
  for (const SizeWord& word : size_words_) word->store(size, std::memory_order_relaxed);
}

// On a disperse volume the bricks hold the bytes when a write is answered, but the size and version
// that make them valid follow later (ec's delayed post-op): a client that vanishes before takes the
// write with it. Of what gfapi offers, flush and fsync force the update first (ec_manager_flush and
// ec_manager_fsync call ec_flush_size_version and wait for it before they go to the bricks; v10.3,
// ec-generic.c). fsync also waits for the disks, so it is flush: glfs_close sends one, and closing
// a glfs_dup, which asks no brick, sends nothing else. One flush serves all writes of the inode
// that were answered before it began.
void Inode::await_flush(Io& io) {
  std::shared_ptr<File> file = io.file_;
  {
    const std::lock_guard lock(mutex_);
    awaiting_flush_.push_back(&io);
    if (flushing_) return;
    flushing_ = true;
  }
  file->worker_->post([file] { file->inode_->flush_batches(); });
}

void Inode::flush_batches() {
  while (true) {
    std::vector<Io*> batch;
    {
      const std::lock_guard lock(mutex_);
      if (awaiting_flush_.empty()) {
        flushing_ = false;
        return;
      }
      batch.swap(awaiting_flush_);
    }
    int error = 0;
    glfs_fd_t* duplicate = glfs_dup(batch.front()->file_->fd_);
    if (!duplicate || glfs_close(duplicate) != 0) error = errno != 0 ? errno : EIO;
    for (Io* io : batch) {
      const std::shared_ptr<File> file = std::move(io->file_);
      io->finished(error != 0 ? -1 : io->result_, error);
    }
  }
}

mode_t set_id_bits(mode_t mode) {
  mode_t bits = mode & S_ISUID;
  if ((mode & S_IXGRP) != 0) bits |= mode & S_ISGID;
  return bits;
}

// --- File --------------------------------------------------------------------------------

File::File(std::shared_ptr<Inode> inode, std::shared_ptr<Context> context,
           std::shared_ptr<Worker> worker, Gate& gate, glfs_fd* fd, int access_mode,
           std::shared_ptr<std::atomic<int64_t>> open_count)
    : inode_(std::move(inode)),
      context_(std::move(context)),
      worker_(std::move(worker)),
      gate_(gate),
      fd_(fd),
      access_mode_(access_mode),
      open_count_(std::move(open_count)) {
  open_count_->fetch_add(1, std::memory_order_relaxed);  // a gauge
}

File::~File() {
  open_count_->fetch_sub(1, std::memory_order_relaxed);
  // The context and the inode go with the job: both outlive the close.
  worker_->post([fd = fd_, context = std::move(context_), inode = std::move(inode_)] {
    if (glfs_close(fd) != 0) {
      spdlog::info("event=close-failed gfid={} error=\"{}\"", to_string(inode->gfid()),
                   strerrordesc_np(errno));
    }
  });
}

void File::on_answer(glfs_fd* /*fd*/, ssize_t result, struct glfs_stat* /*before*/,
                     struct glfs_stat* after, void* data) {
  const int error = result < 0 ? (errno != 0 ? errno : EIO) : 0;
  Io& io = *static_cast<Io*>(data);
  const Context& context = *io.file_->context_;
  Inode& inode = *io.file_->inode_;
  if (result >= 0) inode.note_size(after, io.size_version_);
  io.result_ = result;
  if (result >= 0 && io.write_ && after && set_id_bits(after->glfs_st_mode) != 0) {
    io.file_->take_set_id_away(io, after->glfs_st_mode);
    return;
  }
  if (result >= 0 && io.write_ && context.disperse()) {
    inode.await_flush(io);
    return;
  }
  // Moved out first: `finished` may submit the Io again at once, from another thread.
  const std::shared_ptr<File> file = std::move(io.file_);
  io.finished(result, error);
}

// Root has set these bits while the file was engaged (before, it would have been refused). The
// kernel takes them away before such a write, which it can as far as it knows of them; here they go
// before the answer, whoever has written: root's programs may write with somebody else's fsuid,
// which the kernel looks at and the daemon does not see.
void File::take_set_id_away(Io& io, mode_t mode) {
  // The job may be done, and this with it, before post() returns.
  const std::shared_ptr<Worker> worker = worker_;
  worker->post([file = io.file_, &io, mode] {
    if (glfs_fchmod(file->fd_, mode & ~set_id_bits(mode) & 07777U) != 0) {
      const int error = errno != 0 ? errno : EIO;
      spdlog::warn("event=set-id-stays gfid={} error=\"{}\"", to_string(file->inode_->gfid()),
                   strerrordesc_np(error));
      io.file_.reset();
      io.finished(-1, error);
    } else if (file->context_->disperse()) {
      file->inode_->await_flush(io);
    } else {
      io.file_.reset();
      io.finished(io.result_, 0);
    }
  });
}

Outcome<Attributes> File::attributes() {
  struct stat status {};
  if (glfs_fstat(fd_, &status) != 0) return Failure{std::string(strerrordesc_np(errno))};
  return Attributes{static_cast<uint64_t>(status.st_size), status.st_mtim, status.st_ctim};
}

int File::read(std::byte* buffer, size_t length, uint64_t offset, Io& io) {
  if (context_->condemned()) return EIO;
  prepare(io, false);
  const GfapiCall call(context_->fs());
  return submitted(io, glfs_pread_async(fd_, buffer, length, static_cast<off_t>(offset), 0,
                                        &File::on_answer, &io));
}

int File::write(const std::byte* buffer, size_t length, uint64_t offset, Io& io) {
  if (context_->condemned()) return EIO;
  prepare(io, true);
  const GfapiCall call(context_->fs());
  return submitted(io, glfs_pwrite_async(fd_, buffer, static_cast<int>(length),
                                         static_cast<off_t>(offset), 0, &File::on_answer, &io));
}

int File::sync(bool data_only, Io& io) {
  if (context_->condemned()) return EIO;
  prepare(io, false);
  const GfapiCall call(context_->fs());
  const auto begin = data_only ? glfs_fdatasync_async : glfs_fsync_async;
  return submitted(io, begin(fd_, &File::on_answer, &io));
}

void File::prepare(Io& io, bool write) {
  io.file_ = shared_from_this();
  io.size_version_ = inode_->size_version_.load(std::memory_order_relaxed);
  io.write_ = write;
}

int File::submitted(Io& io, int result) {
  if (result == 0) return 0;  // `io` may be another request's by now
  const int error = errno != 0 ? errno : EIO;
  io.file_.reset();
  return error;
}

// --- Handle ------------------------------------------------------------------------------

Handle::Handle(std::shared_ptr<File> file, SizeWord word)
    : file_(std::move(file)), word_(std::move(word)) {
  file_->inode()->add_size_word(word_);
}

Handle& Handle::operator=(Handle&& other) noexcept {
  if (this != &other) {
    release();
    file_ = std::move(other.file_);
    word_ = std::move(other.word_);
  }
  return *this;
}

void Handle::release() {
  if (file_) file_->inode()->remove_size_word(word_);
  file_.reset();
  word_.reset();
}

}  // namespace booster::daemon::gluster
