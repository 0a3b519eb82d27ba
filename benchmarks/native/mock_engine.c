/* An engine that answers at once and costs little: the routes of vLLM that gateways ask for, on one epoll loop.
 *
 *   mock_engine [--port N] [--interval-ms N] [--blocks N]
 *
 * Prints {"port": N} and serves until it is killed. A chat completion gets a fixed answer of 1 KB with its usage. A
 * streamed one gets its first event at once and one more per interval, `max_tokens` in all, then its usage if that was
 * asked for, then [DONE]. Streams tick each on their own, as those of many engines do. /interval/N changes the interval:
 * a long one makes idle streams. Requests are told apart by their framing; nothing else of them is checked. Linux.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_BYTES = 1024, PROMPT_TOKENS = 250, BLOCK_TOKENS = 16, WAKEUPS_MAX = 256 };
enum { PAGE_LINES = 500 }; /* A real metrics page is mostly histograms: whoever reads the page pays for them. */
#define MODEL "bench"
#define STARTS_WITH(text, prefix) (strncmp(text, prefix, sizeof prefix - 1) == 0)

struct connection {
    int fd;
    char *in;
    size_t in_used, in_size, out_used, out_size;
    char *out; /* What the other side has not taken yet; a stream stands still meanwhile. */
    int events_left, wants_usage, is_queued;
    long due_us;
    struct connection *next, *before; /* In the list of streams, by the time at which each is due. */
};

static struct connection streams = {.next = &streams, .before = &streams};
static int epoll_fd, running;
static long interval_us = 20000, blocks = 1000001, prompt_tokens, output_tokens;
static char *answer, *event_piece, *last_piece, *usage_piece, *filler;
static const char stream_head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                                  "transfer-encoding: chunked\r\n\r\n";
static const char stream_end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *checked(void *memory) {
    if (!memory) die("memory");
    return memory;
}

static long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

__attribute__((format(printf, 1, 2))) static char *text(const char *format, ...) {
    char *made;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&made, format, arguments) < 0) die("memory");
    va_end(arguments);
    return made;
}

/* ---- the list of streams that wait for their next event, by when that is due ---- */

static void unqueue(struct connection *c) {
    if (!c->is_queued) return;
    c->before->next = c->next;
    c->next->before = c->before;
    c->is_queued = 0;
}

static void queue(struct connection *c, long due_us) {
    c->due_us = due_us;
    c->before = streams.before; /* As all wait equally long, its place is at the end, or near it. */
    while (c->before != &streams && c->before->due_us > due_us) c->before = c->before->before;
    c->next = c->before->next;
    c->before->next = c->next->before = c;
    c->is_queued = 1;
}

/* ---- writing ---- */

static void watch(struct connection *c, int operation, unsigned events) {
    struct epoll_event wanted = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &wanted) < 0) die("epoll_ctl");
}

static void put(struct connection *c, const char *bytes, size_t length) {
    if (!c->out_used) {
        ssize_t sent = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return; /* It is gone: epoll says so next. */
            sent = 0;
        }
        bytes += sent;
        length -= (size_t)sent;
        if (!length) return;
        watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
    if (c->out_used + length > c->out_size) {
        c->out_size = c->out_used + length + 4096;
        c->out = checked(realloc(c->out, c->out_size));
    }
    memcpy(c->out + c->out_used, bytes, length);
    c->out_used += length;
}

static void give_event(struct connection *c) {
    output_tokens++;
    if (--c->events_left > 0) {
        put(c, event_piece, strlen(event_piece));
        return;
    }
    char end[2048];
    int length = snprintf(end, sizeof end, "%s%s%s", last_piece, c->wants_usage ? usage_piece : "", stream_end);
    put(c, end, (size_t)length);
    running--;
}

/* Written as far as it goes; a stream that stood still goes on one interval later. */
static void flush(struct connection *c) {
    ssize_t sent = send(c->fd, c->out, c->out_used, MSG_NOSIGNAL);
    if (sent <= 0) return;
    c->out_used -= (size_t)sent;
    memmove(c->out, c->out + sent, c->out_used);
    if (c->out_used) return;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    if (c->events_left > 0) queue(c, now_us() + interval_us);
}

static void tick(void) {
    long now = now_us();
    while (streams.next != &streams && streams.next->due_us <= now) {
        struct connection *c = streams.next;
        unqueue(c);
        give_event(c);
        /* From when it was due, so that the pace holds; unless it is far behind. */
        long due_us = c->due_us + interval_us;
        if (c->events_left > 0 && !c->out_used) queue(c, due_us < now ? now + interval_us : due_us);
    }
}

/* ---- requests ---- */

static void put_page(struct connection *c, const char *status, const char *type, const char *body) {
    char *page = text("HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n%s", status, type, strlen(body), body);
    put(c, page, strlen(page));
    free(page);
}

static void put_metrics(struct connection *c) {
    double used = (double)running * (PROMPT_TOKENS / BLOCK_TOKENS + 1) / (double)blocks;
    char *page = text(
        "%s# TYPE vllm:num_requests_running gauge\n"
        "vllm:num_requests_running{engine=\"0\",model_name=\"" MODEL "\"} %d\n"
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"" MODEL "\"} 0\n"
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"" MODEL "\"} %.6f\n"
        "vllm:num_preemptions_total{engine=\"0\",model_name=\"" MODEL "\"} 0\n"
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"" MODEL "\"} %ld\n"
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"" MODEL "\"} %ld\n"
        "vllm:cache_config_info{block_size=\"%d\",engine=\"0\",num_gpu_blocks=\"%ld\"} 1\n"
        "process_start_time_seconds 1\n",
        filler, running, used > 1 ? 1 : used, prompt_tokens, output_tokens, BLOCK_TOKENS, blocks);
    put_page(c, "200 OK", "text/plain; version=0.0.4", page);
    free(page);
}

/* The value of a field anywhere in the body; our load writes no prompt that could be taken for one. */
static const char *field(const char *body, size_t length, const char *quoted) {
    const char *at = memmem(body, length, quoted, strlen(quoted));
    if (!at) return "";
    at += strlen(quoted);
    while (*at == ' ' || *at == ':') at++;
    return at;
}

static void answer_chat(struct connection *c, const char *body, size_t length) {
    prompt_tokens += PROMPT_TOKENS;
    if (!STARTS_WITH(field(body, length, "\"stream\""), "true")) {
        output_tokens += 16;
        put(c, answer, strlen(answer));
        return;
    }
    c->wants_usage = STARTS_WITH(field(body, length, "\"include_usage\""), "true");
    c->events_left = atoi(field(body, length, "\"max_tokens\""));
    if (!c->events_left) c->events_left = atoi(field(body, length, "\"max_completion_tokens\"")); /* as some re-write it */
    if (c->events_left < 1) c->events_left = 16;
    running++;
    char start[1024];
    if (c->events_left > 1) { /* The head and the first event in one write, as servers under load send them. */
        int bytes = snprintf(start, sizeof start, "%s%s", stream_head, event_piece);
        output_tokens++;
        c->events_left--;
        put(c, start, (size_t)bytes);
        if (!c->out_used) queue(c, now_us() + interval_us);
    } else {
        put(c, stream_head, sizeof stream_head - 1);
        give_event(c);
    }
}

static void respond(struct connection *c, const char *path, const char *body, size_t length) {
    static const char json[] = "application/json";
    if (STARTS_WITH(path, "/v1/chat/completions ")) {
        answer_chat(c, body, length);
    } else if (STARTS_WITH(path, "/metrics")) {
        put_metrics(c);
    } else if (STARTS_WITH(path, "/v1/models")) {
        put_page(c, "200 OK", json,
                 "{\"object\":\"list\",\"data\":[{\"id\":\"" MODEL "\",\"object\":\"model\",\"created\":1,"
                 "\"owned_by\":\"vllm\",\"root\":\"" MODEL "\",\"max_model_len\":131072}]}");
    } else if (STARTS_WITH(path, "/version")) {
        put_page(c, "200 OK", json, "{\"version\":\"0.33.0\"}");
    } else if (STARTS_WITH(path, "/health")) {
        put_page(c, "200 OK", json, "");
    } else if (STARTS_WITH(path, "/interval/")) {
        interval_us = atol(path + strlen("/interval/")) * 1000;
        put_page(c, "200 OK", json, "{}");
    } else {
        put_page(c, "404 Not Found", json, "{}");
    }
}

/* Length of the whole request at `head`, 0 if it is not there yet, and where its body begins. */
static size_t framed(const char *head, size_t have, size_t *body_at) {
    const char *end = memmem(head, have, "\r\n\r\n", 4);
    if (!end) return 0;
    *body_at = (size_t)(end - head) + 4;
    for (const char *line = head; line < end; line = strstr(line, "\r\n") + 2) {
        if (strncasecmp(line, "content-length:", 15) == 0) {
            size_t length = *body_at + strtoul(line + 15, NULL, 10);
            return length <= have ? length : 0;
        }
        if (strncasecmp(line, "transfer-encoding:", 18) == 0) {
            const char *last = memmem(end, have - *body_at + 4, "\r\n0\r\n\r\n", 7);
            return last ? (size_t)(last - head) + 7 : 0;
        }
    }
    return *body_at;
}

static void close_connection(struct connection *c) {
    unqueue(c);
    if (c->events_left > 0) running--;
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

/* 0 when the connection is at its end. */
static int read_requests(struct connection *c) {
    if (c->in_size - c->in_used < 65536) {
        c->in_size = c->in_used + 131072;
        c->in = checked(realloc(c->in, c->in_size + 1));
    }
    ssize_t got = recv(c->fd, c->in + c->in_used, c->in_size - c->in_used, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    c->in_used += (size_t)got;
    c->in[c->in_used] = 0;
    size_t at = 0, body_at = 0, length;
    while (at < c->in_used && (length = framed(c->in + at, c->in_used - at, &body_at))) {
        const char *path = memchr(c->in + at, ' ', body_at);
        if (!path) return 0;
        char after = c->in[at + length]; /* Searches end with the body. */
        c->in[at + length] = 0;
        respond(c, path + 1, c->in + at + body_at, length - body_at);
        c->in[at + length] = after;
        at += length;
    }
    c->in_used -= at;
    memmove(c->in, c->in + at, c->in_used + 1);
    return 1;
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = checked(calloc(1, sizeof *c));
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

/* ---- set-up ---- */

static char *piece(const char *choices, const char *more) {
    char *data = text("data: {\"id\":\"chatcmpl-0000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":1,"
                      "\"model\":\"" MODEL "\",\"choices\":[%s]%s}\n\n", choices, more);
    char *made = text("%zx\r\n%s\r\n", strlen(data), data);
    free(data);
    return made;
}

static char *token_piece(const char *finish) {
    char *choice = text("{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":%s}", finish);
    char *made = piece(choice, "");
    free(choice);
    return made;
}

static char *answer_of(int text_bytes) {
    char *words = checked(calloc(1, (size_t)text_bytes + 1));
    memset(words, 'x', (size_t)text_bytes);
    char *body = text("{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"" MODEL "\",\"choices\":[{"
                      "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],"
                      "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":16,\"total_tokens\":%d}}",
                      words, PROMPT_TOKENS, PROMPT_TOKENS + 16);
    free(words);
    return body;
}

static void prepare(void) {
    char *empty = answer_of(0), *body = answer_of(ANSWER_BYTES - (int)strlen(empty));
    answer = text("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", strlen(body), body);
    free(empty);
    free(body);
    event_piece = token_piece("null");
    last_piece = token_piece("\"length\"");
    usage_piece = piece("", ",\"usage\":{\"prompt_tokens\":250,\"completion_tokens\":100,\"total_tokens\":350}");
    size_t size;
    FILE *page = open_memstream(&filler, &size);
    for (int line = 0; line < PAGE_LINES; line++)
        fprintf(page, "vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"%d\",model_name=\"" MODEL "\"} %d\n", line, line);
    fclose(page);
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 4096) < 0) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int count, char **arguments) {
    int port = 0;
    for (int i = 1; i + 1 < count; i += 2) {
        if (!strcmp(arguments[i], "--port")) port = atoi(arguments[i + 1]);
        else if (!strcmp(arguments[i], "--interval-ms")) interval_us = atol(arguments[i + 1]) * 1000;
        else if (!strcmp(arguments[i], "--blocks")) blocks = atol(arguments[i + 1]);
    }
    prepare();
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
    int listener = listen_on(port);
    struct epoll_event ready[WAKEUPS_MAX], wanted = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &wanted) < 0) die("epoll_ctl");
    for (;;) {
        long wait_us = streams.next == &streams ? -1 : streams.next->due_us - now_us();
        int wait_ms = streams.next == &streams ? -1 : wait_us <= 0 ? 0 : (int)((wait_us + 999) / 1000);
        int number = epoll_wait(epoll_fd, ready, WAKEUPS_MAX, wait_ms); /* Whole ms: streams that are close go together. */
        if (number < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < number; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!c) accept_all(listener);
            else if ((ready[i].events & ~(unsigned)EPOLLOUT) && !read_requests(c)) close_connection(c);
            else if (ready[i].events & EPOLLOUT) flush(c);
        }
        tick();
    }
}
