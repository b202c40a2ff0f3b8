/* A session's parts, for the command: what demist.h has no need to show. */
#ifndef DM_SESSION_H
#define DM_SESSION_H

#include <demist/demist.h>

#include "setup.h"

/* The registry over the session's plugin path. */
demist_status dm_session_registry(demist_session *session, struct dm_registry **registry,
                                  struct dm_error *err);

/* The same with the log and the threads, which are started here. It lives as long as the session,
 * or until demist_session_threads. */
demist_status dm_session_environment(demist_session *session, const struct dm_environment **env,
                                     struct dm_error *err);

/* What was loaded and set; NULL before that. */
const struct dm_ini *dm_session_ini(const demist_session *session);

#endif
