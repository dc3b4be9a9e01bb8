/* Teams of threads, see team.h.

   A step has a dozen parallel parts of some ten microseconds, so who waits looks again and again for
   a while, and sleeps only then: waking up a thread takes as long as such a part. */

#define _GNU_SOURCE /* posix_memalign and pthread_sigmask, which C11 does not know */

#include "team.h"

#include "subnormals.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* Bytes of a helper's stack: parts have arrays of some 100 kB. */
enum { STACK = 1 << 20 };
/* Looks before a thread sleeps: 20 to 60 us, as long as the parts of a step that one thread does. */
enum { LOOKS = 1000 };

/* A number that counts up, in a cache line of its own, and the sleep of those that wait for it. */
typedef struct {
    _Alignas(64) atomic_uint count;
    atomic_int asleep;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} Signal;

struct Team {
    Signal begun, done; /* counts of works */
    _Alignas(64) atomic_int working;
    Part *part; /* NULL: the helpers are to end */
    const void *work;
    int32_t helpers, wanted; /* wanted: the members asked for */
    pid_t process;
    struct Helper {
        Team *team;
        pthread_t thread;
        int32_t member;
    } helper[];
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Wait until a count is no longer `old`. */
static void wait_for(Signal *signal, unsigned old)
{
    for (int look = 0; look < LOOKS; look++) {
        if (atomic_load_explicit(&signal->count, memory_order_acquire) != old)
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&signal->lock);
    atomic_fetch_add(&signal->asleep, 1); /* before it looks again, so that `count_up` sees it */
    while (atomic_load(&signal->count) == old)
        pthread_cond_wait(&signal->changed, &signal->lock);
    atomic_fetch_sub(&signal->asleep, 1);
    pthread_mutex_unlock(&signal->lock);
}

static void count_up(Signal *signal)
{
    atomic_fetch_add(&signal->count, 1);
    if (atomic_load(&signal->asleep) > 0) {
        pthread_mutex_lock(&signal->lock);
        pthread_cond_broadcast(&signal->changed);
        pthread_mutex_unlock(&signal->lock);
    }
}

static void *help(void *helper)
{
    const int32_t member = ((struct Helper *)helper)->member;
    Team *team = ((struct Helper *)helper)->team;
    flush_subnormals();
    for (unsigned works = 0;; works++) {
        wait_for(&team->begun, works);
        if (team->part == NULL)
            return NULL;
        team->part(team->work, member, team->helpers + 1);
        if (atomic_fetch_sub(&team->working, 1) == 1)
            count_up(&team->done);
    }
}

static void make_signal(Signal *signal)
{
    atomic_init(&signal->count, 0);
    atomic_init(&signal->asleep, 0);
    pthread_mutex_init(&signal->lock, NULL);
    pthread_cond_init(&signal->changed, NULL);
}

static void free_signal(Signal *signal)
{
    pthread_mutex_destroy(&signal->lock);
    pthread_cond_destroy(&signal->changed);
}

/* Start so many helpers, or as many as the system gives. They take no signals, which are for
   Python's threads. */
static void start_helpers(Team *team, int32_t helpers)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (team->helpers < helpers) {
        struct Helper *helper = &team->helper[team->helpers];
        *helper = (struct Helper){.team = team, .member = team->helpers + 1};
        if (pthread_create(&helper->thread, &attributes, help, helper) != 0)
            break;
        team->helpers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

static void begin(Team *team, Part *part, const void *work)
{
    team->part = part;
    team->work = work;
    atomic_store(&team->working, team->helpers);
    count_up(&team->begun);
}

void nnlab_free_team(Team *team)
{
    if (team == NULL)
        return;
    if (team->process == getpid()) {
        begin(team, NULL, NULL);
        for (int32_t i = 0; i < team->helpers; i++)
            pthread_join(team->helper[i].thread, NULL);
        free_signal(&team->begun);
        free_signal(&team->done);
    }
    free(team);
}

static Team *make_team(int32_t helpers)
{
    void *memory;
    const size_t bytes = sizeof(Team) + (size_t)helpers * sizeof(struct Helper);
    if (posix_memalign(&memory, 64, bytes) != 0)
        return NULL;
    Team *team = memory;
    team->helpers = 0;
    team->wanted = helpers + 1;
    team->process = getpid();
    make_signal(&team->begun);
    make_signal(&team->done);
    start_helpers(team, helpers);
    if (team->helpers > 0)
        return team;
    nnlab_free_team(team);
    return NULL;
}

Team *nnlab_resize_team(Team *team, int32_t members)
{
    if (team != NULL && team->process == getpid() && team->wanted == members)
        return team;
    nnlab_free_team(team);
    return members > 1 ? make_team(members - 1) : NULL;
}

int32_t nnlab_members(const Team *team)
{
    return team == NULL ? 1 : team->helpers + 1;
}

void nnlab_divide(Team *team, Part *part, const void *work)
{
    if (team == NULL) {
        part(work, 0, 1);
        return;
    }
    const unsigned done = atomic_load(&team->done.count);
    begin(team, part, work);
    part(work, 0, team->helpers + 1);
    wait_for(&team->done, done);
}
