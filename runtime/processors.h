/* How many processors this process may use. */
#ifndef ATTN_RUNTIME_PROCESSORS_H
#define ATTN_RUNTIME_PROCESSORS_H

/* Those in the calling thread's affinity mask, but no more than its control groups grant. At least
 * 1. */
unsigned processors_available(void);

/* The least CPU time that a control group grants, in processors and rounded up; UINT_MAX where none
 * sets a limit. Groups count with all that they are in: cpu.max of version 2, cpu.cfs_quota_us of
 * version 1 (Linux, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst). `groups`:
 * the file that lists them, as /proc/self/cgroup; `mount`: where they are mounted. A group that is
 * not there, as seen from a container, counts as its root. */
unsigned processors_granted(const char *groups, const char *mount);

#endif
