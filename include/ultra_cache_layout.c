/* Reads from a manifest what is kept of a history. */
#include "ultra_cache_layout.h"

#include "ultra_checksum.h"

#include <stdlib.h>
#include <string.h>

typedef ultra_cache_text text;

static const char *const kind_names[ULTRA_CACHE_KINDS] = {"prefill", "score", "extend"};

/* MARK: JSON */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static const char *skip_space(const char *next, const char *end) {
  while (next < end && is_space(*next)) next++;
  return next;
}

/* Behind the string that begins with a quote at `next`; null where it does not end. */
static const char *skip_string(const char *next, const char *end) {
  for (next++; next < end; next++) {
    if (*next == '\\') {
      next++;
    } else if (*next == '"') {
      return next + 1;
    }
  }
  return NULL;
}

/* Behind the value at `next`; null where it does not end. The manifest is the compiler's, so brackets are only counted. */
static const char *skip_value(const char *next, const char *end) {
  int64_t depth = 0;
  while (next < end) {
    char c = *next;
    if (c == '"') {
      next = skip_string(next, end);
      if (next == NULL) return NULL;
    } else if (c == '{' || c == '[') {
      depth++;
      next++;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return NULL;
      depth--;
      next++;
    } else if (depth > 0) {
      next++;
      continue;
    } else {
      /* A number or a word. */
      while (next < end && *next != ',' && *next != '}' && *next != ']' && !is_space(*next)) next++;
    }
    if (depth == 0) return next;
  }
  return NULL;
}

/* Takes the next value of a list or an object, whose rest `rest` is and which begins with `open`; with a key in an object. */
static bool next_value(text *rest, char open, text *key, text *value) {
  const char *next = skip_space(rest->start, rest->end);
  if (next >= rest->end || (*next != open && *next != ',')) return false;
  next = skip_space(next + 1, rest->end);
  if (key != NULL) {
    if (next >= rest->end || *next != '"') return false;
    const char *end = skip_string(next, rest->end);
    if (end == NULL) return false;
    *key = (text){next + 1, end - 1};
    next = skip_space(end, rest->end);
    if (next >= rest->end || *next != ':') return false;
    next = skip_space(next + 1, rest->end);
  }
  const char *end = next < rest->end && *next != ']' && *next != '}' ? skip_value(next, rest->end) : NULL;
  if (end == NULL || end == next) return false;
  *value = (text){next, end};
  rest->start = end;
  return true;
}

static bool next_element(text *list, text *value) { return next_value(list, '[', NULL, value); }

static bool is_equal(text left, text right) {
  size_t size = (size_t)(left.end - left.start);
  return size == (size_t)(right.end - right.start) && memcmp(left.start, right.start, size) == 0;
}

static bool is_word(text value, const char *word) { return is_equal(value, (text){word, word + strlen(word)}); }

/* The value of a key; false where the object has none. */
static bool find(text object, const char *wanted, text *value) {
  text key;
  while (next_value(&object, '{', &key, value)) {
    if (is_word(key, wanted)) return true;
  }
  return false;
}

/* What stands between the quotes of a key's value. Names are compared as they are written: the compiler writes equal ones alike. */
static bool find_string(text object, const char *key, text *string) {
  if (!find(object, key, string) || string->end - string->start < 2 || *string->start != '"') return false;
  string->start++;
  string->end--;
  return true;
}

static bool is_string(text value) { return value.end - value.start >= 2 && *value.start == '"'; }

static text unquoted(text value) { return (text){value.start + 1, value.end - 1}; }

/* A whole number from 0 on. */
static bool read_number(text value, int64_t *number) {
  *number = 0;
  if (value.start == value.end) return false;
  for (const char *next = value.start; next < value.end; next++) {
    if (*next < '0' || *next > '9' || !ultra_cache_multiply(*number, 10, number) ||
        !ultra_cache_add(*number, *next - '0', number)) {
      return false;
    }
  }
  return true;
}

/* MARK: Entries */

/* The entry's object in the manifest. */
static bool find_entry(text manifest, const char *name, text *entry) {
  text entries, found;
  if (!find(manifest, "entries", &entries)) return false;
  while (next_element(&entries, entry)) {
    if (find_string(*entry, "name", &found) && is_word(found, name)) return true;
  }
  return false;
}

/* The port of this name among an entry's `side`, and its place; -1 where there is none. */
static int32_t find_port(text entry, const char *side, text name, text *port) {
  text ports, found;
  if (!find(entry, side, &ports)) return -1;
  for (int32_t place = 0; next_element(&ports, port); place++) {
    if (find_string(*port, "name", &found) && is_equal(found, name)) return place;
  }
  return -1;
}

static int32_t find_dimension(text entry, text name) {
  text dimensions, found;
  if (!find(entry, "dimensions", &dimensions)) return -1;
  for (int32_t place = 0; next_element(&dimensions, &found); place++) {
    if (is_string(found) && is_equal(unquoted(found), name)) return place;
  }
  return -1;
}

/* Whether the entry's list has as many values as the table says: places found in it are then places in a call. */
static bool has_count(text entry, const char *key, uint32_t count) {
  text list, value;
  if (!find(entry, key, &list)) return false;
  uint32_t found = 0;
  while (next_element(&list, &value)) found++;
  return found == count;
}

static bool is_offsets(text port) {
  text kind;
  return find_string(port, "kind", &kind) && is_word(kind, "offsets");
}

static int64_t element_bytes(text element) {
  static const struct {
    const char *name;
    int64_t bytes;
  } known[] = {{"f64", 8}, {"i64", 8}, {"f32", 4}, {"i32", 4}, {"f16", 2}, {"bf16", 2}, {"f8e4m3", 1}, {"i8", 1},
               {"u8", 1},  {"bool", 1}};
  for (size_t index = 0; index < sizeof known / sizeof *known; index++) {
    if (is_word(element, known[index].name)) return known[index].bytes;
  }
  return 0;
}

/* What cuts the rows that a call of the entry brings: the offsets that are neither kept nor of features. */
static bool read_own_rows(ultra_cache *cache, text entry, int kind) {
  text inputs, port, value;
  if (!find(entry, "inputs", &inputs)) return false;
  for (int32_t place = 0; next_element(&inputs, &port); place++) {
    if (!is_offsets(port) || find(port, "keeps", &value)) continue;
    if (find_string(port, "role", &value) && is_word(value, "feature-offsets")) continue;
    text rows, sequences;
    if (!find_string(port, "rows", &rows) || !find_string(port, "sequences", &sequences)) return false;
    cache->own_offsets[kind] = place;
    cache->own_rows[kind] = find_dimension(entry, rows);
    cache->sequences[kind] = find_dimension(entry, sequences);
    return cache->own_rows[kind] >= 0 && cache->sequences[kind] >= 0;
  }
  return false;
}

/* How many rows a cut has at most, by the dimension of `prefill` that counts them. */
static bool read_bound(const ultra_cache *cache, text manifest, text prefill, text rows, ultra_cache_cut *cut) {
  cut->of_rows = 1;
  cut->constant = 0;
  cut->most = INT64_C(1) << 62;
  int32_t given = find_dimension(prefill, rows);
  if (given >= 0) return given == cache->own_rows[ULTRA_CACHE_PREFILL];
  text dimensions, dimension, value;
  if (!find(manifest, "dimensions", &dimensions)) return false;
  do {
    if (!next_element(&dimensions, &dimension)) return false;
  } while (!find_string(dimension, "name", &value) || !is_equal(value, rows));
  if (find(dimension, "atMostOfSequence", &value) && !read_number(value, &cut->most)) return false;
  if (!find(dimension, "atMost", &value)) return false;
  if (is_string(value)) return find_dimension(prefill, unquoted(value)) == cache->own_rows[ULTRA_CACHE_PREFILL];
  cut->of_rows = 0;
  text terms, term, name, number;
  if (find(value, "constant", &number) && !read_number(number, &cut->constant)) return false;
  if (!find(value, "terms", &terms)) return false;
  while (next_element(&terms, &term)) {
    int64_t times;
    if (!find_string(term, "dimension", &name) || !find(term, "times", &number) || !read_number(number, &times)) {
      return false;
    }
    int32_t place = find_dimension(prefill, name);
    if (place >= 0 && place == cache->own_rows[ULTRA_CACHE_PREFILL]) {
      cut->of_rows = times;
    } else if (place < 0 || place != cache->sequences[ULTRA_CACHE_PREFILL] ||
               !ultra_cache_add(cut->constant, times, &cut->constant)) {
      return false;
    }
  }
  return true;
}

/* MARK: What is kept */

static int find_cut(const ultra_cache *cache, text name) {
  for (uint32_t index = 0; index < cache->cut_count; index++) {
    if (is_equal(cache->cuts[index].name, name)) return (int)index;
  }
  return -1;
}

static int find_section(const ultra_cache *cache, text name) {
  for (uint32_t index = 0; index < cache->section_count; index++) {
    if (is_equal(cache->sections[index].name, name)) return (int)index;
  }
  return -1;
}

/* The window that an offsets input has, if it has one. A quarter more room lets rows be left out a few at a time. */
static bool read_window(text port, ultra_cache_cut *cut) {
  text window, first, latest;
  if (!find(port, "window", &window)) return true;
  if (!find(window, "first", &first) || !read_number(first, &cut->first)) return false;
  if (!find(window, "latest", &latest) || !read_number(latest, &cut->latest) || cut->latest < 1) return false;
  int64_t needed;
  if (!ultra_cache_add(cut->first, cut->latest, &needed) || cut->most <= needed) return false;
  return ultra_cache_add(cut->most, cut->latest / 4, &cut->most);
}

/* A cut that an entry's input brings. */
static bool add_cut(ultra_cache *cache, text manifest, text entry, int kind, text port, int32_t place) {
  text name, keeps, prefill, source, rows;
  if (!find_string(port, "name", &name) || !find_string(port, "keeps", &keeps)) return false;
  int index = find_cut(cache, name);
  if (index < 0) {
    if (!find_entry(manifest, kind_names[ULTRA_CACHE_PREFILL], &prefill)) return false;
    index = (int)cache->cut_count++;
    ultra_cache_cut *cut = &cache->cuts[index];
    *cut = (ultra_cache_cut){.name = name, .input = {-1, -1, -1}, .dimension = {-1, -1, -1}, .output = -1};
    if (find_port(prefill, "inputs", keeps, &source) < 0) {
      cut->output = find_port(prefill, "outputs", keeps, &source);
      if (cut->output < 0) return false;
    }
    if (!is_offsets(source) || !find_string(source, "rows", &rows)) return false;
    if (!read_bound(cache, manifest, prefill, rows, cut) || !read_window(port, cut)) return false;
  }
  if (!find_string(port, "rows", &rows)) return false;
  cache->cuts[index].input[kind] = place;
  cache->cuts[index].dimension[kind] = find_dimension(entry, rows);
  return cache->cuts[index].dimension[kind] >= 0;
}

/* The cut whose offsets an entry takes with rows of this name. */
static int cut_of_rows(const ultra_cache *cache, text entry, text rows) {
  text inputs, port, found;
  if (!find(entry, "inputs", &inputs)) return -1;
  while (next_element(&inputs, &port)) {
    if (!is_offsets(port) || !find(port, "keeps", &found)) continue;
    if (find_string(port, "rows", &found) && is_equal(found, rows) && find_string(port, "name", &found)) {
      return find_cut(cache, found);
    }
  }
  return -1;
}

/* A section that an entry's input brings, and where `prefill` and `extend` give it or take it. */
static bool add_section(ultra_cache *cache, text manifest, text entry, int kind, text port, int32_t place) {
  text name, keeps, shape, rows, width, element;
  if (!find_string(port, "name", &name) || !find_string(port, "keeps", &keeps)) return false;
  int index = find_section(cache, name);
  if (index >= 0) {
    cache->sections[index].input[kind] = place;
    return true;
  }
  index = (int)cache->section_count++;
  ultra_cache_section *section = &cache->sections[index];
  *section = (ultra_cache_section){
      .name = name, .row_count = 1, .input = {-1, -1, -1}, .output = {-1, -1, -1}, .brought = {-1, -1, -1}};
  section->input[kind] = place;
  if (!find_string(port, "element", &element) || !find(port, "shape", &shape)) return false;
  if (!next_element(&shape, &rows) || !is_string(rows)) return false;
  while (next_element(&shape, &width)) {
    int64_t count;
    if (!read_number(width, &count) || !ultra_cache_multiply(section->row_count, count, &section->row_count)) {
      return false;
    }
  }
  if (!ultra_cache_multiply(section->row_count, element_bytes(element), &section->row_bytes)) return false;
  int cut = cut_of_rows(cache, entry, unquoted(rows));
  if (cut < 0 || section->row_bytes <= 0) return false;
  section->cut = (uint32_t)cut;
  static const int sources[] = {ULTRA_CACHE_PREFILL, ULTRA_CACHE_EXTEND};
  for (size_t next = 0; next < sizeof sources / sizeof *sources; next++) {
    text source, found;
    int from = sources[next];
    if (cache->entries[from] == NULL) continue;
    if (!find_entry(manifest, kind_names[from], &source)) return false;
    section->output[from] = find_port(source, "outputs", keeps, &found);
    if (section->output[from] < 0) section->brought[from] = find_port(source, "inputs", keeps, &found);
    if (section->output[from] < 0 && section->brought[from] < 0) return false;
  }
  return true;
}

/* Cuts first, then the sections that they cut: what `score` takes in its order, then what only `extend` takes. */
static bool read_kept(ultra_cache *cache, text manifest) {
  static const int kinds[] = {ULTRA_CACHE_SCORE, ULTRA_CACHE_EXTEND};
  for (int pass = 0; pass < 2; pass++) {
    for (size_t next = 0; next < sizeof kinds / sizeof *kinds; next++) {
      text entry, inputs, port, keeps;
      int kind = kinds[next];
      if (cache->entries[kind] == NULL) continue;
      if (!find_entry(manifest, kind_names[kind], &entry) || !find(entry, "inputs", &inputs)) return false;
      for (int32_t place = 0; next_element(&inputs, &port); place++) {
        if (!find(port, "keeps", &keeps) || is_offsets(port) != (pass == 0)) continue;
        bool isAdded = pass == 0 ? add_cut(cache, manifest, entry, kind, port, place)
                                 : add_section(cache, manifest, entry, kind, port, place);
        if (!isAdded) return false;
      }
    }
  }
  return cache->section_count > 0;
}

static int32_t read_manifest(ultra_cache *cache, const ultra_model *model) {
  text manifest = {model->manifest, model->manifest + model->manifest_size};
  size_t inputs = 0;
  for (int kind = 0; kind < ULTRA_CACHE_KINDS; kind++) {
    for (uint64_t index = 0; index < model->entry_count; index++) {
      const ultra_entry *entry = &model->entries[index];
      if (strcmp(entry->name, kind_names[kind]) == 0) cache->entries[kind] = entry;
    }
    if (cache->entries[kind] == NULL) continue;
    inputs += cache->entries[kind]->input_count;
    text entry;
    if (!find_entry(manifest, kind_names[kind], &entry)) return ULTRA_CACHE_BAD_MANIFEST;
    cache->signatures[kind] = entry;
    if (!read_own_rows(cache, entry, kind) ||
        !has_count(entry, "dimensions", cache->entries[kind]->dimension_count) ||
        !has_count(entry, "inputs", cache->entries[kind]->input_count) ||
        !has_count(entry, "outputs", cache->entries[kind]->output_count)) {
      return ULTRA_CACHE_BAD_MANIFEST;
    }
  }
  bool continues = cache->entries[ULTRA_CACHE_SCORE] != NULL || cache->entries[ULTRA_CACHE_EXTEND] != NULL;
  if (cache->entries[ULTRA_CACHE_PREFILL] == NULL || !continues) return ULTRA_CACHE_NO_ENTRY;
  cache->cuts = calloc(inputs, sizeof *cache->cuts);
  cache->sections = calloc(inputs, sizeof *cache->sections);
  if (cache->cuts == NULL || cache->sections == NULL) return ULTRA_CACHE_NO_MEMORY;
  if (!read_kept(cache, manifest)) return ULTRA_CACHE_BAD_MANIFEST;
  cache->identity = ultra_crc64(0, model->manifest, model->manifest_size);
  return ULTRA_CACHE_OK;
}

int32_t ultra_cache_create(const ultra_model *model, ultra_cache **result) {
  if (model == NULL || result == NULL || model->refusal != NULL) return ULTRA_CACHE_BAD_CALL;
  *result = NULL;
  ultra_cache *cache = calloc(1, sizeof *cache);
  if (cache == NULL) return ULTRA_CACHE_NO_MEMORY;
  int32_t status = read_manifest(cache, model);
  if (status == ULTRA_CACHE_OK) {
    *result = cache;
  } else {
    ultra_cache_destroy(cache);
  }
  return status;
}

void ultra_cache_destroy(ultra_cache *cache) {
  if (cache == NULL) return;
  free(cache->cuts);
  free(cache->sections);
  free(cache);
}

static int32_t place_of(const ultra_cache *cache, uint32_t kind, const char *side, const char *name) {
  text port;
  if (name == NULL || ultra_cache_entry(cache, kind) == NULL) return -1;
  return find_port(cache->signatures[kind], side, (text){name, name + strlen(name)}, &port);
}

int32_t ultra_cache_input(const ultra_cache *cache, uint32_t kind, const char *name) {
  return place_of(cache, kind, "inputs", name);
}

int32_t ultra_cache_output(const ultra_cache *cache, uint32_t kind, const char *name) {
  return place_of(cache, kind, "outputs", name);
}

const ultra_entry *ultra_cache_entry(const ultra_cache *cache, uint32_t kind) {
  return cache != NULL && kind < ULTRA_CACHE_KINDS ? cache->entries[kind] : NULL;
}
