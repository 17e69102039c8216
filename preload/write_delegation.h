// Write delegations, as a program sees them (common/abi.h, HandleSlot::delegation): while a
// description holds one, booster serves its file, and nobody else on this host has it open.
//
//   none ──ask──► asked ──granted──► held ──recalled by the daemon──► none
//                   │ refused, or the program has changed     │
//                   ▼ the file through the kernel meanwhile   ▼ given back: the kernel is to
//                 none                                      none    change the file
//
// The program goes on through the kernel until it holds one. It is taken up only if nothing was
// changed through the kernel since it was asked for, because what FUSE holds back was flushed while
// the daemon looked, and not after: so a write that asks waits a moment for the answer, as long as
// a few trips to the bricks take.
#pragma once

#include "preload/call.h"
#include "preload/file_table.h"

namespace booster::preload {

/// Asks for a write delegation of the description that `fd` names, or takes up what was answered.
/// The caller is counted in its calls (FileTable::begin_call) and has no call of the kernel's under
/// way. kNone: it is held now. Waits for the answer some milliseconds at most; longer with
/// GLFS_BOOSTER_ENGAGE=eager.
common::Reason ask_delegation(Session& session, Description& description, int fd);

/// The delegation under which `description` may be written and read through `session`, with its
/// handle; 0: none. Lock-free.
uint32_t held_delegation(Description& description, const Session& session, HandleRef& handle);

/// Gives back what it holds or has asked for, settled, and waits until the daemon has taken it. On
/// return nobody looks at the description for us, and booster serves none of its calls.
void give_back_delegation(Description& description);

/// Around a change that the kernel makes of the file: whatever booster serves of it is given back
/// before, and none is taken up meanwhile. Waits while another thread takes one up.
class KernelChange {
 public:
  explicit KernelChange(Inode& inode);
  ~KernelChange();
  KernelChange(const KernelChange&) = delete;
  KernelChange& operator=(const KernelChange&) = delete;

 private:
  Inode& inode_;
};

}  // namespace booster::preload
