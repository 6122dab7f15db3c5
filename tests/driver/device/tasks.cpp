// A GPU may run work at any time between its launch and the next wait for it. DRIVER_ORDER says when work
// runs here:
//   now     at once
//   late    as late as events and waits allow, so code that doesn't wait reads old numbers
//   random  some of it between calls, in a random order that events allow; DRIVER_SEED is the seed
//   never   not at all, for timing the host
#include "tasks.h"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "memory.h"

namespace driver {

enum Order { NOW, LATE, RANDOM, NEVER };

static Order read_order() {
  const char* name = getenv("DRIVER_ORDER");
  const std::string order = name ? name : "now";
  if (order == "now") return NOW;
  if (order == "late") return LATE;
  if (order == "random") return RANDOM;
  if (order == "never") return NEVER;
  fprintf(stderr, "DRIVER_ORDER must be now, late, random or never, not %s\n", name);
  abort();
}

static const Order ORDER = read_order();
static std::vector<TaskPtr> pending;

bool work_is_dropped() { return ORDER == NEVER; }

static std::mt19937& generator() {
  static std::mt19937 made(getenv("DRIVER_SEED") ? atoi(getenv("DRIVER_SEED")) : 1);
  return made;
}

// Returns a task that is ready to run: one that this task needs, or the task itself if all those are done.
static Task* ready_task(Task* task) {
  for (;;) {
    Task* next = nullptr;
    for (const TaskPtr& before : task->after) {
      if (before && !before->done) next = before.get();
    }
    if (!next) return task;
    task = next;
  }
}

static void run_ready(Task* task) {
  const Unlocked unlocked(task->device);
  if (task->work) task->work();
  task->done = true;
  task->work = nullptr;
  task->after.clear();
}

static void forget_done() {
  std::vector<TaskPtr> left;
  for (TaskPtr& task : pending) {
    if (!task->done) left.push_back(std::move(task));
  }
  pending.swap(left);
}

void run_task(const TaskPtr& task) {
  if (!task || task->done) return;
  const TaskPtr held = task;
  while (!held->done) run_ready(ready_task(held.get()));
  forget_done();
}

// CuPy's pool of pinned memory asks now and then. That alone must not make late work run early.
void ask_for(const TaskPtr& task) {
  const int PATIENCE = 16;
  if (!task || task->done || ++task->asked % PATIENCE) return;
  run_ready(ready_task(task.get()));
  forget_done();
}

void run_all(int device) {
  const std::vector<TaskPtr> all = pending;
  for (size_t k = all.size(); k-- > 0;) {
    if (all[k]->device == device) run_task(all[k]);
  }
}

TaskPtr queue_task(int device, Work work, std::vector<TaskPtr> after) {
  if (work_is_dropped()) return nullptr;
  const TaskPtr task = std::make_shared<Task>(Task{std::move(work), std::move(after), device});
  pending.push_back(task);
  if (ORDER == NOW) run_task(task);
  if (ORDER == RANDOM && generator()() % 2) run_task(pending[generator()() % pending.size()]);
  return task;
}

}  // namespace driver
