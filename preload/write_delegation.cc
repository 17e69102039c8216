#include "preload/write_delegation.h"

#include "common/futex.h"
#include "preload/handle.h"
#include "preload/process.h"
#include "preload/settle.h"
#include "preload/write_log.h"

namespace booster::preload {

using common::Reason;

namespace {

/// How soon a delegation is asked for again that was not granted, or taken away; twice that each
/// time.
constexpr uint64_t kAskAgainMs = 100;
constexpr uint64_t kAskSeldomMs = 2000;
/// How long a write waits for the answer: a grant takes two trips to the bricks and some wake-ups.
/// Four times that each time that it was not enough.
constexpr uint32_t kPatienceUs = 3'000;
constexpr uint32_t kMostPatienceUs = 2'000'000;
/// Somebody has the description's delegation in his hands, and waits for bricks.
constexpr uint64_t kHandsOffMs = 10'000;
/// The longest that a write waits while another thread takes a delegation up.
constexpr uint64_t kGateMs = 2'500;

common::DelegationState state_of(uint32_t delegation) {
  return static_cast<common::DelegationState>(delegation & common::kDelegationStates);
}

/// Keeps other threads' changes of the file away, and waits for those that are under way.
class Gate {
 public:
  explicit Gate(Inode& inode) : inode_(inode) {
    // seq_cst: partner of the pair in KernelChange. Either it sees this and waits, or it is seen
    // below.
    inode.asking.fetch_add(1, std::memory_order_seq_cst);
    const uint64_t deadline = raw::now_us() + kPatienceUs;
    while (inode.kernel_changing.load(std::memory_order_seq_cst) != 0) {
      if (raw::now_us() >= deadline) return;
      raw::sleep_us(50);
    }
    quiet_ = true;
  }
  ~Gate() {
    if (inode_.asking.fetch_sub(1, std::memory_order_release) == 1) {
      common::futex_wake_all(inode_.asking);
    }
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  bool quiet() const { return quiet_; }

 private:
  Inode& inode_;
  bool quiet_ = false;
};

/// Sets when it is asked for again: sooner where the last one was held for long.
void ask_later(Description::Writing& writing) {
  const uint64_t now = raw::coarse_now_ms();
  const bool lasted = now - writing.held_since_ms > 8 * writing.pause_ms;
  if (writing.pause_ms == 0 || (writing.held_since_ms != 0 && lasted)) {
    writing.pause_ms = kAskAgainMs;
  }
  writing.held_since_ms = 0;
  writing.ask_at_ms.store(now + writing.pause_ms, std::memory_order_relaxed);
  writing.pause_ms = writing.pause_ms * 2 < kAskSeldomMs ? writing.pause_ms * 2 : kAskSeldomMs;
}

/// FUSE told of it when the daemon flushed what it held back, and will not tell again. The handle
/// bears it from now on: there will be another one. Under `engaging`.
bool hear_of_error(Session& session, Description& description) {
  const int error = session.take_log_error(description.handle.slot);
  if (error == 0) return false;
  defer_error(*description.inode, error);
  settle(*description.inode);  // counts in the slot, which is another's afterwards
  give_back(description.handle);
  description.stage.store(Description::kNone, std::memory_order_relaxed);
  ask_later(description.writing);
  return true;
}

/// What the daemon has answered to the last question. kPending: it may be asked again at once.
Reason take_up(Session& session, Description& description, uint32_t answer, bool unchanged) {
  Description::Writing& writing = description.writing;
  Inode& inode = *description.inode;
  writing.asked = false;
  if (hear_of_error(session, description)) return Reason::kIoError;
  if (state_of(answer) != common::kDelegated) {
    ask_later(writing);
    return session.refused(description.handle);
  }
  const bool ours = unchanged && writing.never.load(std::memory_order_relaxed) == Reason::kNone &&
                    !description.shared.load(std::memory_order_acquire);
  if (!ours) {
    session.ask_delegation(description.handle, -1);
    return Reason::kPending;
  }
  settle(inode);  // what was written under an earlier one
  {
    LockGuard guard(inode.settle_lock);
    inode.written_by = description.handle;
    inode.written_under = answer;
  }
  writing.handler_writes = g_handler_writes.load(std::memory_order_acquire);
  writing.held_since_ms = raw::coarse_now_ms();
  inode.holder.store(&description, std::memory_order_seq_cst);
  writing.held.store(answer, std::memory_order_release);
  // seq_cst: partner of the pair in KernelChange. Either it sees the holder, or it is seen here.
  // Another thread hands descriptors out: see begin_to_share().
  const bool shared = is_sharing();
  if (!shared && inode.kernel_changes.load(std::memory_order_seq_cst) == writing.changes_then) {
    return Reason::kNone;
  }
  writing.held.store(0, std::memory_order_relaxed);
  inode.holder.store(nullptr, std::memory_order_relaxed);
  session.ask_delegation(description.handle, -1);
  if (!shared) return Reason::kPending;
  ask_later(writing);
  return Reason::kNotAlone;
}

}  // namespace

uint32_t held_delegation(Description& description, const Session& session, HandleRef& handle) {
  const uint32_t held = description.writing.held.load(std::memory_order_acquire);
  if (held == 0 || !copy_handle(description, session, handle)) return 0;
  return session.delegation(handle) == held && description.writing.handler_writes ==
                                                   g_handler_writes.load(std::memory_order_acquire)
             ? held
             : 0;
}

Reason ask_delegation(Session& session, Description& description, int fd) {
  Description::Writing& writing = description.writing;
  Inode& inode = *description.inode;
  const bool eager = settings().eager;
  if (!session.policy().delegations || is_sharing() || !description.own ||
      description.shared.load(std::memory_order_acquire)) {
    return Reason::kNotAlone;
  }
  if (!description.engaging.lock_for(eager_wait_ms())) return Reason::kPending;
  Reason reason = Reason::kPending;
  const uint64_t now = raw::coarse_now_ms();
  if (writing.held.load(std::memory_order_relaxed) != 0 ||
      (!eager && now < writing.ask_at_ms.load(std::memory_order_relaxed))) {
    reason = Reason::kNotAlone;
  } else {
    reason = advance_handle(session, description, fd);
  }
  if (reason == Reason::kNone && !session.may_write(description.handle)) {
    reason = Reason::kNotProven;
  }
  if (reason == Reason::kNone) {
    const Gate gate(inode);
    reason = Reason::kPending;
    if (writing.patience_us == 0) writing.patience_us = kPatienceUs;
    // Where writes take long anyway, so does the flush.
    if (const uint32_t slow = description.cost.slow_write_us.load(std::memory_order_relaxed);
        writing.patience_us < 2 * slow) {
      writing.patience_us = 2 * slow < kMostPatienceUs ? 2 * slow : kMostPatienceUs;
    }
    const uint64_t deadline = raw::now_us() + (eager ? kHandsOffMs * 1000 : writing.patience_us);
    const raw::Patience looks;
    const auto wait = [&session, &looks, deadline] {
      if (raw::now_us() >= deadline) return false;
      looks.sleep();
      return session.alive_lately();
    };
    // Another thread may have left a change in the middle, for good.
    if (!gate.quiet()) ask_later(writing);
    while (gate.quiet()) {
      const uint32_t answer = session.delegation(description.handle);
      if (writing.asked && answer == writing.answer_then) {
        if (wait()) continue;
        writing.patience_us =
            4 * writing.patience_us < kMostPatienceUs ? 4 * writing.patience_us : kMostPatienceUs;
        break;
      }
      if (writing.asked) {
        const uint32_t changes = inode.kernel_changes.load(std::memory_order_acquire);
        reason = take_up(session, description, answer, changes == writing.changes_then);
        // Asked again at once: this answer was to a question of before.
        if (reason != Reason::kPending ||
            writing.never.load(std::memory_order_relaxed) != Reason::kNone) {
          break;
        }
        continue;
      }
      if (state_of(answer) == common::kDelegated || state_of(answer) == common::kRevoking) {
        // Given back a moment ago.
        if (wait()) continue;
        break;
      }
      writing.answer_then = answer;
      writing.changes_then = inode.kernel_changes.load(std::memory_order_acquire);
      g_has_asked.store(true, std::memory_order_relaxed);
      writing.asked = session.ask_delegation(description.handle, fd);
      if (!writing.asked) {
        session.alive();  // if not, the next question goes to the next daemon
        break;
      }
    }
  }
  description.engaging.unlock();
  return reason;
}

void give_back_delegation(Description& description) {
  Description::Writing& writing = description.writing;
  // relaxed: a question that another thread asks at this moment is given up by the caller's
  // KernelChange, or by `shared`.
  if (writing.held.load(std::memory_order_relaxed) == 0 &&
      !std::atomic_ref(writing.asked).load(std::memory_order_relaxed)) {
    return;
  }
  settle(*description.inode);
  LockGuard guard(description.engaging);
  const SessionRef live = current_session();
  const bool same = live && live->id() == description.handle.session;
  const uint64_t deadline = raw::coarse_now_ms() + kHandsOffMs;
  bool gone = false;  // the handle is no longer ours to ask with
  if (writing.asked && same) {
    // A helper of the daemon may have the description: a file that is executed next, or a lock that
    // is to go with it, would be kept by that.
    const raw::Patience looks;
    while (live->delegation(description.handle) == writing.answer_then &&
           raw::coarse_now_ms() < deadline && live->alive_lately()) {
      looks.sleep();
    }
    gone = hear_of_error(*live, description);
  }
  const uint32_t held = writing.held.exchange(0, std::memory_order_relaxed);
  writing.asked = false;
  Description* self = &description;
  description.inode->holder.compare_exchange_strong(self, nullptr, std::memory_order_relaxed);
  if (held != 0) ask_later(writing);
  if (gone || !same) return;
  if (state_of(live->delegation(description.handle)) == common::kNotDelegated) return;
  if (!live->ask_delegation(description.handle, -1)) return;
  const raw::Patience looks;
  while (state_of(live->delegation(description.handle)) != common::kNotDelegated &&
         raw::coarse_now_ms() < deadline && live->alive_lately()) {
    looks.sleep();
  }
  guard.unlock();
  // What another thread has written meanwhile.
  settle(*description.inode);
}

KernelChange::KernelChange(Inode& inode) : inode_(inode) {
  const uint64_t deadline = raw::coarse_now_ms() + kGateMs;
  while (true) {
    // seq_cst: partner of the pair in Gate.
    inode.kernel_changing.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t asking = inode.asking.load(std::memory_order_seq_cst);
    if (asking == 0 || raw::coarse_now_ms() >= deadline) break;
    inode.kernel_changing.fetch_sub(1, std::memory_order_seq_cst);
    common::futex_wait(inode.asking, asking, 10);
  }
  inode.kernel_changes.fetch_add(1, std::memory_order_seq_cst);
  // seq_cst: partner of the store in take_up().
  if (Description* holder = inode.holder.load(std::memory_order_seq_cst)) {
    if (FileTable::hold(*holder)) {
      if (holder->inode == &inode) give_back_delegation(*holder);
      g_files.release(holder);
    }
  }
  settle(inode);
}

KernelChange::~KernelChange() {
  note_own_change(inode_);
  // Release: partner of the acquire in ask_delegation().
  inode_.kernel_changes.fetch_add(1, std::memory_order_release);
  inode_.kernel_changing.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace booster::preload
