// Keeps libgfapi from dying of one of its own mistakes: what gfapi_guard.cc does needs to know
// which context a call is for.
#pragma once

struct glfs;  // glfs_t

namespace booster::daemon::gluster {

/// To be held by the calling thread around every submission of an asynchronous read or write of
/// `fs`. Does not nest: libgfapi's callbacks call no gfapi.
class GfapiCall {
 public:
  explicit GfapiCall(glfs* fs);
  ~GfapiCall();
  GfapiCall(const GfapiCall&) = delete;
  GfapiCall& operator=(const GfapiCall&) = delete;
};

}  // namespace booster::daemon::gluster
