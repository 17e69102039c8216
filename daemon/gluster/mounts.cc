// The registry of mounts, by device number.
#include <algorithm>

#include "daemon/gluster/mount.h"

namespace booster::daemon::gluster {

std::shared_ptr<Mount> Mounts::find_or_add(const MountPlace& place) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Mount>& mount = mounts_[place.dev];
  if (!mount || mount->retired()) {
    std::unique_ptr<Gate>& gate = gates_[place.dev];
    if (!gate) gate = std::make_unique<Gate>();
    mount = std::make_shared<Mount>(place, settings_, *gate, wakes_);
  } else {
    mount->note_place(place);
  }
  return mount;
}

void Mounts::fence(const std::shared_ptr<Inode>& inode, uint64_t offset,
                   std::function<void(bool)> done) {
  const auto mount = find_gone_or_not(inode->dev());
  if (mount) mount->fence(inode, offset, std::move(done));
}

std::shared_ptr<const void> Mounts::owe_fence() {
  fences_owed_->fetch_add(1, std::memory_order_relaxed);
  return {nullptr, [owed = fences_owed_](const void*) {
            // release: partner of the acquire in fences_done().
            owed->fetch_sub(1, std::memory_order_release);
          }};
}

std::shared_ptr<Mount> Mounts::find(dev_t dev) {
  auto mount = find_gone_or_not(dev);
  return mount && !mount->retired() ? mount : nullptr;
}

/// Also one that no path leads to any more, but where files are still open.
std::shared_ptr<Mount> Mounts::find_gone_or_not(dev_t dev) {
  const std::lock_guard lock(mutex_);
  const auto found = mounts_.find(dev);
  return found != mounts_.end() ? found->second : nullptr;
}

bool Mounts::mounted(const Inode& inode) {
  const auto mount = find(inode.dev());
  return mount && mount->has(inode);
}

void Mounts::prove_unwritten(const std::shared_ptr<File>& file, bool proven,
                             std::function<void(Mount::Proof)> done) {
  if (const auto mount = find(file->inode()->dev())) {
    mount->prove_unwritten(file, proven, std::move(done));
  } else {
    done(Failure{common::Reason::kNotGenuine});
  }
}

void Mounts::prove_alone(const std::shared_ptr<File>& file, Mount::AloneQuestion question) {
  if (const auto mount = find(file->inode()->dev())) {
    mount->prove_alone(file, std::move(question));
  } else {
    question.done({common::Reason::kNotGenuine, 0}, nullptr);
  }
}

void Mounts::probe(const std::shared_ptr<Inode>& inode, std::function<void(bool)> done) {
  if (const auto mount = find_gone_or_not(inode->dev())) {
    mount->probe(inode, std::move(done));
  } else {
    done(false);
  }
}

std::vector<std::shared_ptr<Mount>> Mounts::all() {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Mount>> mounts;
  mounts.reserve(mounts_.size());
  for (const auto& [dev, mount] : mounts_) mounts.push_back(mount);
  return mounts;
}

void Mounts::sweep(const std::function<bool(dev_t)>& still_there) {
  const std::lock_guard lock(mutex_);
  for (const auto& [dev, mount] : mounts_) {
    if (!still_there(dev)) mount->retire();
  }
}

void Mounts::tick() {
  for (const auto& mount : all()) mount->tick();
  // A retired mount stays until its context is closed, so that people see it.
  const std::lock_guard lock(mutex_);
  std::erase_if(mounts_, [](const auto& item) {
    if (!item.second->retired()) return false;
    const ContextState state = item.second->report().state;
    return state == ContextState::kNone || state == ContextState::kFailed;
  });
}

std::vector<MountReport> Mounts::report() {
  std::vector<MountReport> reports;
  for (const auto& mount : all()) reports.push_back(mount->report());
  std::sort(reports.begin(), reports.end(),
            [](const MountReport& a, const MountReport& b) { return a.place.dev < b.place.dev; });
  return reports;
}

}  // namespace booster::daemon::gluster
