/* A team: the thread that calls, and helpers that do parts of its work and live until it ends. */

#ifndef NNLAB_TEAM_H
#define NNLAB_TEAM_H

#include <stdint.h>

typedef struct Team Team;

/* Does one of the parts, as many as there are members, of some work. */
typedef void Part(const void *work, int32_t member, int32_t members);

/* Returns the team, or another in its place that has so many members. It has fewer where the system
   gives no more threads; NULL is a team of one. */
Team *nnlab_resize_team(Team *team, int32_t members);

/* Ends the helpers. In a process forked meanwhile there are none: only memory is freed then. */
void nnlab_free_team(Team *team);

/* How many members a team has; of NULL: 1. */
int32_t nnlab_members(const Team *team);

/* Does all parts of some work, and returns when they are done. What is written before is seen in
   the parts, and what they write afterwards. */
void nnlab_divide(Team *team, Part *part, const void *work);

#endif
