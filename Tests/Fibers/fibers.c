#define _GNU_SOURCE
#include "fibers.h"

#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

/* Contexts are how a stack is entered first. From then on control jumps: to swap contexts asks the system for the mask of signals each
 * time, which takes longer than most of what threads do in between. */
struct fiber {
  ucontext_t context;
  int has_begun;
  jmp_buf place;
  void *stack;
  size_t stack_size;
  void (*body)(void *);
  void *argument;
  fiber_request request;
  int is_done;
};

static jmp_buf scheduler;
static fiber *running;
static void *running_tag;

static int (*answer_first)(uint32_t number, void *arguments, void *results);

void fiber_set_answer(int (*answer)(uint32_t number, void *arguments, void *results)) { answer_first = answer; }

fiber *fiber_make(size_t stack_size) {
  fiber *made = calloc(1, sizeof *made);
  if (!made) return NULL;
  made->stack_size = stack_size;
  made->stack = mmap(NULL, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made->stack == MAP_FAILED) {
    free(made);
    return NULL;
  }
  return made;
}

void fiber_free(fiber *fiber) {
  munmap(fiber->stack, fiber->stack_size);
  free(fiber);
}

static void enter(void) {
  running->body(running->argument);
  running->is_done = 1;
  _longjmp(scheduler, 1);
}

void fiber_begin(fiber *fiber, void (*body)(void *), void *argument) {
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = fiber->stack_size;
  fiber->context.uc_link = NULL;
  fiber->has_begun = 0;
  fiber->body = body;
  fiber->argument = argument;
  fiber->is_done = 0;
  makecontext(&fiber->context, enter, 0);
}

const fiber_request *fiber_resume(fiber *fiber, void *tag) {
  running = fiber;
  running_tag = tag;
  if (_setjmp(scheduler) == 0) {
    if (fiber->has_begun) _longjmp(fiber->place, 1);
    fiber->has_begun = 1;
    setcontext(&fiber->context);
  }
  running = NULL;
  running_tag = NULL;
  return fiber->is_done ? NULL : &fiber->request;
}

void *fiber_tag(void) { return running_tag; }

void fiber_ask(uint32_t number, void *arguments, void *results) {
  if (answer_first && answer_first(number, arguments, results)) return;
  fiber *own = running;
  own->request = (fiber_request){number, arguments, results};
  if (_setjmp(own->place) == 0) _longjmp(scheduler, 1);
}

void *fiber_low_memory(size_t size, size_t alignment) {
  for (uintptr_t place = 0x10000000; place + size < 0xF0000000u; place += alignment) {
    uintptr_t wanted = (place + alignment - 1) / alignment * alignment;
    void *found = mmap((void *)wanted, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (found == (void *)wanted) return found;
    if (found != MAP_FAILED) munmap(found, size);
  }
  return NULL;
}
