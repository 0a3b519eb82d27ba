/* A load generator that costs little: one request, prepared in a file, over and over on keep-alive connections.
 *
 *   load --port N --request FILE [--connections N] [--seconds S] [--requests N] [--rate PER_S] [--status N]
 *        [--bytes N] [--tokens N] [--hold 1]
 *
 * Closed loop: every connection asks again as soon as it has its answer. With --rate an open loop: requests are due at
 * even distances, and times count from when one was due. It ends after --seconds, or when --requests have been begun,
 * and all have been answered. An answer is right with --status, a body of at least --bytes and, if --tokens is given,
 * as many tokens (` word"` in the body) and [DONE]. --hold keeps streams open once all have their first token: it
 * prints {"held": N} and waits until standard input ends. The result is one JSON object. Linux.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 16384, READ_BYTES = 65536, WAKEUPS_MAX = 256, PATIENCE_S = 30, TIMES_MAX = 4000000 };
enum { BEGINNING_MAX = 16 }; /* Streams to be held that are still without their first token: nobody is rushed. */
static const char token[] = " word\"", done[] = "[DONE]";

enum state { IDLE, HEAD, LENGTH, SIZE, PIECE, PIECE_END, TRAILER };

struct connection {
    int fd, status, closes, size_seen, tokens, has_done, token_at, done_at;
    enum state state;
    size_t sent, head_used, left, body_bytes, line_bytes;
    long since_us, first_us;
    struct connection *next_idle;
    char head[HEAD_MAX + 1];
};

static struct { long port, connections, requests, status, bytes, tokens, hold; double seconds, rate; } given = {
    .connections = 1, .status = 200, .seconds = 1e9, .requests = 1000000000};
static struct connection *idle;
static char *request, first_error[256];
static size_t request_bytes;
static int epoll_fd;
static long begun, ended, errors, tokens, started_us, last_us, held, times, *whole_us, *first_us;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static void *checked(void *memory) {
    if (!memory) die("memory");
    return memory;
}

/* ---- connections ---- */

static void watch(struct connection *c, int operation, unsigned events) {
    struct epoll_event wanted = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &wanted) < 0) die("epoll_ctl");
}

static void dial(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)given.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* Blocking: on loopback it takes no time, and nobody's time is measured by it. */
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void rest(struct connection *c) {
    c->state = IDLE;
    c->next_idle = idle;
    idle = c;
}

static void send_request(struct connection *c) {
    ssize_t sent = send(c->fd, request + c->sent, request_bytes - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) return; /* Reading tells why. */
    size_t before = c->sent;
    c->sent += sent > 0 ? (size_t)sent : 0;
    if (c->sent < request_bytes) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    else if (before) watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void ask(struct connection *c, long since_us) {
    idle = c->next_idle;
    begun++;
    c->state = HEAD;
    c->since_us = since_us;
    c->first_us = 0;
    c->sent = c->head_used = c->body_bytes = c->line_bytes = 0;
    c->tokens = c->has_done = c->token_at = c->done_at = 0;
    send_request(c);
}

static void finish(struct connection *c, const char *wrong) {
    last_us = now_us();
    ended++;
    tokens += c->tokens;
    if (wrong) {
        if (!errors++) snprintf(first_error, sizeof first_error, "%s, status %d, %zu bytes, %d tokens", wrong, c->status, c->body_bytes, c->tokens);
    } else if (times < TIMES_MAX) {
        whole_us[times] = last_us - c->since_us;
        first_us[times++] = c->first_us - c->since_us;
    }
    if (wrong || c->closes) {
        close(c->fd);
        dial(c);
    }
    rest(c);
}

static void judge(struct connection *c) {
    if (!c->first_us) c->first_us = now_us(); /* It has no body. */
    if (c->status != given.status) finish(c, "another status");
    else if ((long)c->body_bytes < given.bytes) finish(c, "too short");
    else if (given.tokens && (c->tokens != given.tokens || !c->has_done)) finish(c, "not all tokens");
    else finish(c, NULL);
}

/* ---- answers ---- */

/* One step of a search that goes on from read to read; no text that is searched for begins anew within itself. */
static int found(const char *wanted, int *at, char byte) {
    *at = byte == wanted[*at] ? *at + 1 : byte == wanted[0];
    if (wanted[*at]) return 0;
    *at = 0;
    return 1;
}

static void take_body(struct connection *c, const char *bytes, size_t length) {
    c->body_bytes += length;
    if (given.tokens) {
        for (size_t i = 0; i < length; i++) {
            if (found(token, &c->token_at, bytes[i])) c->tokens++;
            if (found(done, &c->done_at, bytes[i])) c->has_done = 1;
        }
        if (!c->tokens) return;
    }
    if (c->first_us) return;
    c->first_us = now_us();
    held++;
}

/* What the head says of the body. */
static void read_head(struct connection *c) {
    c->head[c->head_used] = 0;
    c->status = atoi(c->head + strcspn(c->head, " "));
    c->closes = 0;
    c->left = 0;
    c->state = LENGTH;
    for (char *line = strstr(c->head, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        char *field = line + 2;
        if (!strncasecmp(field, "content-length:", 15)) c->left = strtoul(field + 15, NULL, 10);
        if (!strncasecmp(field, "transfer-encoding:", 18)) c->state = SIZE;
        if (!strncasecmp(field, "connection: close", 17)) c->closes = 1;
    }
    c->size_seen = 0;
}

static size_t take_head(struct connection *c, const char *bytes, size_t length) {
    size_t before = c->head_used, taken = length < HEAD_MAX - before ? length : HEAD_MAX - before;
    memcpy(c->head + before, bytes, taken);
    c->head_used += taken;
    char *end = memmem(c->head, c->head_used, "\r\n\r\n", 4);
    if (!end) {
        if (c->head_used == HEAD_MAX) finish(c, "a head without end");
        return taken;
    }
    c->head_used = (size_t)(end - c->head) + 4;
    read_head(c);
    return c->head_used - before;
}

/* One byte of the framing around pieces; 1 at the end of the answer. */
static int take_framing(struct connection *c, char byte) {
    if (c->state == SIZE) {
        int digit = byte >= '0' && byte <= '9' ? byte - '0' : (byte | 32) >= 'a' && (byte | 32) <= 'f' ? (byte | 32) - 'a' + 10 : -1;
        if (digit >= 0) c->left = c->left * 16 + (size_t)digit;
        else if (byte == '\n') c->state = c->left ? PIECE : TRAILER;
    } else if (c->state == PIECE_END && byte == '\n') {
        c->state = SIZE;
        c->left = 0;
    } else if (c->state == TRAILER && byte != '\r') {
        if (byte == '\n' && !c->line_bytes) return 1;
        c->line_bytes = byte == '\n' ? 0 : c->line_bytes + 1;
    }
    return 0;
}

static void take(struct connection *c, const char *bytes, size_t length) {
    while (length && c->state != IDLE) {
        size_t taken = 1;
        if (c->state == HEAD) {
            taken = take_head(c, bytes, length);
        } else if (c->state == LENGTH || c->state == PIECE) {
            taken = length < c->left ? length : c->left;
            take_body(c, bytes, taken);
            c->left -= taken;
            if (!c->left && c->state == PIECE) c->state = PIECE_END;
        } else if (take_framing(c, *bytes)) {
            judge(c);
        }
        bytes += taken;
        length -= taken;
        if (c->state == LENGTH && !c->left) judge(c);
    }
}

static void read_answer(struct connection *c) {
    static char bytes[READ_BYTES];
    ssize_t got = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got > 0) {
        take(c, bytes, (size_t)got);
    } else if (got == 0 || errno != EAGAIN) {
        if (c->state != IDLE) {
            finish(c, "cut off");
        } else { /* Between two answers a server may close. */
            close(c->fd);
            dial(c);
        }
    }
}

/* ---- the run ---- */

static int is_begun(long now) {
    return begun >= given.requests || (double)(now - started_us) >= given.seconds * 1e6;
}

static long due_us(void) {
    return given.rate > 0 ? started_us + (long)((double)begun * 1e6 / given.rate) : 0;
}

static int compare(const void *one, const void *other) {
    long a = *(const long *)one, b = *(const long *)other;
    return (a > b) - (a < b);
}

static long quantile(long *sorted, double share) {
    return times ? sorted[(long)((double)(times - 1) * share)] : 0;
}

static void print_result(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    long cpu_us = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000L + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    qsort(whole_us, (size_t)times, sizeof *whole_us, compare);
    qsort(first_us, (size_t)times, sizeof *first_us, compare);
    errors += begun - ended;
    if (begun > ended && !*first_error) strcpy(first_error, "no end");
    printf("{\"requests\": %ld, \"errors\": %ld, \"first_error\": \"%s\", \"tokens\": %ld, \"seconds\": %.6f, \"cpu_us\": %ld, "
           "\"p50_us\": %ld, \"p99_us\": %ld, \"first_p50_us\": %ld, \"first_p99_us\": %ld}\n",
           ended, errors, first_error, tokens, (double)(last_us - started_us) / 1e6, cpu_us, quantile(whole_us, 0.5),
           quantile(whole_us, 0.99), quantile(first_us, 0.5), quantile(first_us, 0.99));
    fflush(stdout);
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    request_bytes = (size_t)ftell(file);
    rewind(file);
    request = checked(malloc(request_bytes));
    if (fread(request, 1, request_bytes, file) != request_bytes) die(path);
    fclose(file);
}

static void read_arguments(int count, char **arguments) {
    struct { const char *name; long *value; } numbers[] = {
        {"--port", &given.port}, {"--connections", &given.connections}, {"--requests", &given.requests},
        {"--status", &given.status}, {"--bytes", &given.bytes}, {"--tokens", &given.tokens}, {"--hold", &given.hold}};
    for (int i = 1; i + 1 < count; i += 2) {
        if (!strcmp(arguments[i], "--request")) read_request(arguments[i + 1]);
        else if (!strcmp(arguments[i], "--seconds")) given.seconds = atof(arguments[i + 1]);
        else if (!strcmp(arguments[i], "--rate")) given.rate = atof(arguments[i + 1]);
        else
            for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
                if (!strcmp(arguments[i], numbers[n].name)) *numbers[n].value = atol(arguments[i + 1]);
    }
    if (!request || !given.port) {
        fputs("--port and --request are needed\n", stderr);
        exit(2);
    }
}

/* Begin what is due, and say how long there is nothing to begin: -1 until an answer comes. */
static long begin_due_us(void) {
    long now = now_us();
    while (idle && !is_begun(now) && (!given.hold || begun - held - errors < BEGINNING_MAX)) {
        long due = due_us();
        if (due > now) return due - now;
        ask(idle, due ? due : now_us());
    }
    return -1;
}

static void run(void) {
    struct epoll_event ready[WAKEUPS_MAX];
    int is_held = 0;
    for (;;) {
        long wait_us = begin_due_us(), now = now_us();
        if (is_begun(now) && (ended == begun || (!given.hold && now - last_us > PATIENCE_S * 1000000L))) return;
        if (wait_us < 0 || wait_us > 1000000) wait_us = 1000000; /* Whether it is over is looked at now and then. */
        struct timespec wait = {.tv_sec = wait_us / 1000000, .tv_nsec = wait_us % 1000000 * 1000};
        int number = epoll_pwait2(epoll_fd, ready, WAKEUPS_MAX, &wait, NULL);
        if (number < 0 && errno != EINTR) die("epoll_pwait2");
        for (int i = 0; i < number; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!c) { /* Standard input ended: those that are held were not meant to end. */
                ended = begun;
                return;
            }
            if (ready[i].events & EPOLLOUT && c->state != IDLE) send_request(c);
            if (ready[i].events & ~(unsigned)EPOLLOUT) read_answer(c);
        }
        if (given.hold && !is_held && held + errors >= given.requests) {
            is_held = 1;
            printf("{\"held\": %ld, \"first_error\": \"%s\"}\n", held, first_error);
            fflush(stdout);
        }
    }
}

int main(int count, char **arguments) {
    read_arguments(count, arguments);
    whole_us = checked(malloc(TIMES_MAX * sizeof *whole_us));
    first_us = checked(malloc(TIMES_MAX * sizeof *first_us));
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
    struct connection *all = checked(calloc((size_t)given.connections, sizeof *all));
    for (long i = 0; i < given.connections; i++) {
        dial(&all[i]);
        rest(&all[i]);
    }
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = NULL};
    if (given.hold && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &wanted) < 0) die("epoll_ctl");
    started_us = last_us = now_us();
    run();
    print_result();
    return 0;
}
