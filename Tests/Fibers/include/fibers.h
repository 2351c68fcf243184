#ifndef FIBERS_H
#define FIBERS_H

#include <stddef.h>
#include <stdint.h>

/* Functions that run on stacks of their own, and stop where they ask for something that only the other side can give: the threads of
 * an emulated GPU. One processor thread runs them all, one after the other. */

/* What a function asks for: a number, where its arguments lie, and where results go. */
typedef struct fiber_request {
  uint32_t number;
  void *arguments;
  void *results;
} fiber_request;

typedef struct fiber fiber;

/* A stack of so many bytes; null where there is no memory. */
fiber *fiber_make(size_t stack_size);
void fiber_free(fiber *fiber);

/* Lets `body(argument)` begin where the fiber is resumed next. What ran on it before is forgotten. */
void fiber_begin(fiber *fiber, void (*body)(void *), void *argument);

/* Runs the fiber until it asks for something, and gives that; or until its body returns, and gives null. `tag` is what `fiber_tag`
 * gives meanwhile. */
const fiber_request *fiber_resume(fiber *fiber, void *tag);

/* The tag of the fiber that runs. */
void *fiber_tag(void);

/* What requests are offered to first, on the fiber's own stack: where it answers other than 0 the fiber goes on. It may not stop a fiber. */
void fiber_set_answer(int (*answer)(uint32_t number, void *arguments, void *results));

/* Asks, from within a body. */
void fiber_ask(uint32_t number, void *arguments, void *results);

/* Memory below 4 GiB, at a multiple of `alignment`; null where there is none. Its addresses fit 32 bits, as those of a GPU's shared
 * memory do. */
void *fiber_low_memory(size_t size, size_t alignment);

#endif
