// A glfs_subvol_done that libgfapi calls instead of its own.
//
// An open file has to be opened again when the volume's graph changes. If that fails, because the
// file has no name any more or a brick is down, glfs_resolve_fd fails in whatever call comes next,
// and glfs_preadv_async_common gives its reference to the graph back with a local variable that it
// would have set only afterwards: glfs_subvol_done(NULL, subvol), which locks a mutex at NULL
// (v10.3, glfs-fops.c and glfs-resolve.c; the other calls pass glfd->fs). The process ends.
//
// libgfapi calls this function through its procedure linkage table, as a symbol that it exports
// itself, so that the executable's comes first; a definition without a version serves any (ld.so:
// check_match). A libgfapi without the mistake, or without the function, does not notice.
#include "daemon/gluster/gfapi_guard.h"

#include <dlfcn.h>

namespace booster::daemon::gluster {
namespace {

thread_local glfs* t_called = nullptr;

}  // namespace

GfapiCall::GfapiCall(glfs* fs) {
  t_called = fs;
}

GfapiCall::~GfapiCall() {
  t_called = nullptr;
}

}  // namespace booster::daemon::gluster

// Exported: the link options of daemon/CMakeLists.txt.
extern "C" void glfs_subvol_done(glfs* fs, void* subvol) {
  using Function = void (*)(glfs*, void*);
  static const auto real =
      reinterpret_cast<Function>(::dlvsym(RTLD_NEXT, "glfs_subvol_done", "GFAPI_PRIVATE_3.4.0"));
  // A reference that is never given back keeps the graph and its connections, hence not just a
  // return.
  if (!fs) fs = booster::daemon::gluster::t_called;
  if (fs && real) real(fs, subvol);
}
