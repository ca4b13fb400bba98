// How far a load has come, on the terminal.
// Thread contract: the returned function as LoadProgress, one call at a time.
#ifndef STERNA_SERVER_LOAD_PROGRESS_H_
#define STERNA_SERVER_LOAD_PROGRESS_H_

#include "engine/model/weights.h"

namespace sterna {

// Keeps one line on standard error up to date; empty, and thus nothing, where that is no terminal.
LoadProgress TerminalProgress();

}  // namespace sterna

#endif  // STERNA_SERVER_LOAD_PROGRESS_H_
