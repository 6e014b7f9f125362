/*
 * The load generator of the bench: many SMTP or POP3 sessions in one process and one thread.
 *
 * It is in C because the server under test shares the machine with it: what the generator burns, the
 * server cannot have.  It checks every reply, stops at the first wrong one with the peer's own words and
 * exit status 1, and prints one line of JSON at the end.
 *
 *   load smtp port=N [messages=N] [sessions=N] [per_connection=N] [size=N] [rcpts=N] [pipelining=1]
 *   load poll port=N [total=N] [sessions=N]            USER PASS STAT UIDL QUIT, again and again
 *   load retr port=N [sessions=N] [messages=N] [size=N] [depth=N] [repeat=N]
 *   load idle port=N [sessions=N] [logins=N]           sessions that log in and then are silent
 *   common: host=127.0.0.1 domain=x.mail password=... mailboxes=N first=N timeout=SECONDS
 *
 * Mailboxes are u00000@domain, u00001@domain, ...  A POP3 session has mailboxes that no other session
 * ever opens, because a maildrop is locked by its session (RFC 1939 section 3).  The modes retr and idle
 * print "ready" when every session has logged in and wait for a line on standard input, print "done" and
 * wait again before QUIT: between the two the caller can read the server's CPU and memory.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define INPUT_SIZE (128 * 1024)
#define MAX_EVENTS 256

/* ---------------------------------------------------------------- options */

static const char *mode, *host = "127.0.0.1", *domain = "x.mail", *password = "bench";
static long port, total = 1000, sessions = 20, per_connection = 1, size = 4096, rcpts = 1, pipelining;
static long mailboxes = 100, first, depth = 1, repeat = 1, logins = 20, timeout_seconds = 120;

static const struct { const char *name; long *number; const char **text; } OPTIONS[] = {
    {"host", NULL, &host},           {"domain", NULL, &domain},     {"password", NULL, &password},
    {"port", &port, NULL},           {"messages", &total, NULL},    {"total", &total, NULL},
    {"sessions", &sessions, NULL},   {"size", &size, NULL},         {"per_connection", &per_connection, NULL},
    {"rcpts", &rcpts, NULL},         {"first", &first, NULL},       {"pipelining", &pipelining, NULL},
    {"mailboxes", &mailboxes, NULL}, {"depth", &depth, NULL},       {"logins", &logins, NULL},
    {"timeout", &timeout_seconds, NULL}, {"repeat", &repeat, NULL},
};

/* --------------------------------------------------------------- sessions */

enum state {
    CLOSED, HELD,
    S_BANNER, S_EHLO, S_MAIL, S_RCPT, S_DATA, S_CONTENT, S_QUIT,
    P_BANNER, P_USER, P_PASS, P_STAT, P_UIDL, P_RETR, P_QUIT
};
static const char *const STATE_NAMES[] = {
    "closed", "held",
    "SMTP greeting", "EHLO", "MAIL", "RCPT", "DATA", "end of content", "SMTP QUIT",
    "POP3 greeting", "USER", "PASS", "STAT", "UIDL", "RETR", "POP3 QUIT"
};
static const int SMTP_CODES[] = { [S_BANNER] = 220, [S_EHLO] = 250, [S_MAIL] = 250, [S_RCPT] = 250,
                                  [S_DATA] = 354, [S_CONTENT] = 250, [S_QUIT] = 221 };

struct session {
    int fd;
    enum state state;
    long slot, runs;             /* runs: POP3 sessions this slot has finished */
    long message, done_here;     /* SMTP: the message in hand; messages finished on this connection */
    long rcpts_left;
    long sent, received;         /* RETR commands sent, responses whole */
    int in_body;                 /* inside a multi-line response */
    size_t skip, body;           /* octets that need no search for the end; octets of this body so far */
    double began;
    char *input;
    size_t have;
    char *commands, header[512];
    struct iovec out[3];
    int out_count, out_at, want_out;
};

static struct session *all;
static int poller;
static long next_message, finished, live, held, connections, opened;
static double *latencies, started, ended;
static long long octets;
static struct { char *octets; size_t length; } contents[2]; /* bodies with their end "CRLF.CRLF": plain, dotted */
static struct sockaddr_in server;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static _Noreturn void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load %s: ", mode ? mode : "");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

static void watch(struct session *s, int operation, int want_out)
{
    struct epoll_event event = { .events = EPOLLIN | (want_out ? EPOLLOUT : 0), .data.ptr = s };
    s->want_out = want_out;
    if (epoll_ctl(poller, operation, s->fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

/* Write what waits in s->out; whatever the socket does not take now goes when it is writable again. */
static void flush(struct session *s)
{
    while (s->out_at < s->out_count) {
        ssize_t n = writev(s->fd, s->out + s->out_at, s->out_count - s->out_at);
        if (n < 0) {
            if (errno != EAGAIN)
                die("write in state %s: %s", STATE_NAMES[s->state], strerror(errno));
            if (!s->want_out)
                watch(s, EPOLL_CTL_MOD, 1);
            return;
        }
        while (s->out_at < s->out_count && (size_t)n >= s->out[s->out_at].iov_len)
            n -= s->out[s->out_at++].iov_len;
        if (s->out_at < s->out_count) {
            s->out[s->out_at].iov_base = (char *)s->out[s->out_at].iov_base + n;
            s->out[s->out_at].iov_len -= n;
        }
    }
    s->out_at = s->out_count = 0;
    if (s->want_out)
        watch(s, EPOLL_CTL_MOD, 0);
}

static void put(struct session *s, const void *bytes, size_t length)
{
    s->out[s->out_count++] = (struct iovec){ (void *)bytes, length };
}

static void say(struct session *s, enum state state, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsprintf(s->commands, format, arguments); /* room: see main */
    va_end(arguments);
    s->state = state;
    put(s, s->commands, n);
    flush(s);
}

static long mailbox_of(struct session *s) /* POP3: slot 3 of 20 has mailboxes 3, 23, 43, ... */
{
    long own = (mailboxes - s->slot + sessions - 1) / sessions;
    return first + s->slot + s->runs % own * sessions;
}

static void open_session(struct session *s)
{
    int one = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        die("socket: %s (is `ulimit -n` above the number of sessions?)", strerror(errno));
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        die("connect to port %ld: %s", port, strerror(errno));
    s->state = *mode == 's' ? S_BANNER : P_BANNER;
    s->have = s->done_here = s->sent = s->received = s->in_body = s->out_at = s->out_count = 0;
    s->began = now();
    connections++;
    watch(s, EPOLL_CTL_ADD, 0);
}

static void close_session(struct session *s)
{
    close(s->fd);
    s->fd = -1;
    s->state = CLOSED;
    live--;
}

/* ------------------------------------------------------------------- SMTP */

static int format_header(char *to, long message)
{
    return sprintf(to,
        "From: Bench <bench@example.org>\r\nTo: <u%05ld@%s>\r\nSubject: bench %010ld\r\n"
        "Date: Mon, 01 Jan 2024 12:00:00 +0000\r\nMessage-ID: <%010ld.%010ld.%010ld@bench.example>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n",
        first + message * rcpts % mailboxes, domain, message, message, (long)getpid(), (long)time(NULL));
}

/*
 * Lines of 72 printable characters, like an attachment in base64.  In a dotted content one line in fifty begins with
 * a dot, which goes out stuffed.
 */
static void make_content(int dotted)
{
    char header[512];
    uint32_t random = 2463534242u;
    long length = size - format_header(header, 0), at = 0, line = 0;
    if (length < 4)
        die("size is too small: the header alone takes %ld octets", size - length);
    char *content = malloc(length + length / 1000 + 64);
    while (length > 0) {
        long here = length > 74 ? 74 : length;
        if (length - here < 3) /* no rest that is too short for a line */
            here = length > 74 ? 70 : length;
        if (dotted && line++ % 50 == 20 && here > 3)
            content[at++] = '.', content[at++] = '.', here--, length--;
        for (long i = 0; i < here - 2; i++) {
            random ^= random << 13, random ^= random >> 17, random ^= random << 5;
            content[at++] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[random & 63];
        }
        content[at++] = '\r', content[at++] = '\n';
        length -= here;
    }
    memcpy(content + at, ".\r\n", 3);
    contents[dotted].octets = content;
    contents[dotted].length = at + 3;
}

static void claim_message(struct session *s)
{
    s->message = next_message++;
    s->rcpts_left = rcpts;
}

static void say_rcpt(struct session *s)
{
    say(s, S_RCPT, "RCPT TO:<u%05ld@%s>\r\n",
        first + (s->message * rcpts + rcpts - s->rcpts_left) % mailboxes, domain);
}

static void begin_message(struct session *s)
{
    if (!pipelining) {
        say(s, S_MAIL, "MAIL FROM:<bench@example.org>\r\n");
        return;
    }
    char *to = s->commands; /* RFC 2920: MAIL, every RCPT and DATA in one piece */
    to += sprintf(to, "MAIL FROM:<bench@example.org>\r\n");
    for (long i = 0; i < rcpts; i++)
        to += sprintf(to, "RCPT TO:<u%05ld@%s>\r\n", first + (s->message * rcpts + i) % mailboxes, domain);
    to += sprintf(to, "DATA\r\n");
    s->state = S_MAIL;
    put(s, s->commands, to - s->commands);
    flush(s);
}

static void message_done(struct session *s)
{
    double t = now();
    latencies[finished++] = t - s->began;
    octets += size;
    ended = t;
    s->done_here++;
    if (s->done_here < per_connection && next_message < total) {
        s->began = t;
        claim_message(s);
        begin_message(s);
    } else
        say(s, S_QUIT, "QUIT\r\n");
}

static void smtp_reply(struct session *s, const char *line, size_t length)
{
    int code = atoi(line);
    if (code != SMTP_CODES[s->state])
        die("reply to %s was: %.*s", STATE_NAMES[s->state], (int)length, line);
    switch (s->state) {
    case S_BANNER:
        say(s, S_EHLO, "EHLO bench.example\r\n");
        break;
    case S_EHLO:
        begin_message(s);
        break;
    case S_MAIL:
        if (pipelining)
            s->state = S_RCPT;
        else
            say_rcpt(s);
        break;
    case S_RCPT:
        if (--s->rcpts_left == 0) {
            if (pipelining)
                s->state = S_DATA;
            else
                say(s, S_DATA, "DATA\r\n");
        } else if (!pipelining)
            say_rcpt(s);
        break;
    case S_DATA:
        put(s, s->header, format_header(s->header, s->message));
        put(s, contents[s->message % 16 == 3].octets, contents[s->message % 16 == 3].length);
        s->state = S_CONTENT;
        flush(s);
        break;
    case S_CONTENT:
        message_done(s);
        break;
    default: /* S_QUIT */
        close_session(s);
    }
}

static size_t smtp_input(struct session *s)
{
    size_t at = 0;
    char *end;
    while (s->fd >= 0 && (end = memchr(s->input + at, '\n', s->have - at))) {
        size_t length = end - (s->input + at);
        if (length < 4)
            die("not a reply: %.*s", (int)length, s->input + at);
        char *line = s->input + at;
        at += length + 1;
        if (line[3] == ' ' || line[3] == '\r')
            smtp_reply(s, line, length - 1);
        else if (line[3] != '-')
            die("not a reply: %.*s", (int)length, line);
    }
    return at;
}

/* ------------------------------------------------------------------- POP3 */

static void hold(struct session *s)
{
    s->state = HELD;
    held++;
    if (*mode == 'i' && opened < sessions) /* the next login starts when one is through */
        open_session(&all[opened++]);
}

static void ask_letters(struct session *s)
{
    if (s->out_count || s->sent - s->received > depth / 2)
        return;
    char *to = s->commands;
    while (s->sent < total * repeat && s->sent - s->received < depth)
        to += sprintf(to, "RETR %ld\r\n", s->sent++ % total + 1);
    if (to != s->commands) {
        put(s, s->commands, to - s->commands);
        flush(s);
    }
}

static void begin_body(struct session *s)
{
    s->in_body = 1;
    s->body = 0;
    /* A letter is at least as long as what was sent in: its end cannot come earlier. */
    s->skip = s->state == P_RETR && size > 16 ? size - 16 : 0;
}

static void pop3_response(struct session *s, const char *line)
{
    double t;
    switch (s->state) {
    case P_BANNER:
        say(s, P_USER, "USER u%05ld@%s\r\n", mailbox_of(s), domain);
        break;
    case P_USER:
        say(s, P_PASS, "PASS %s\r\n", password);
        break;
    case P_PASS:
        if (*mode == 'i')
            hold(s);
        else
            say(s, P_STAT, "STAT\r\n");
        break;
    case P_STAT:
        if (*mode == 'r') {
            if (atol(line + 4) < total)
                die("u%05ld has fewer than %ld letters: %.40s", mailbox_of(s), total, line);
            hold(s);
        } else
            say(s, P_UIDL, "UIDL\r\n");
        break;
    case P_UIDL:
        ended = t = now();
        latencies[finished++] = t - s->began;
        octets += s->body;
        say(s, P_QUIT, "QUIT\r\n");
        break;
    case P_RETR:
        if (s->body < (size_t)size)
            die("letter %ld has %zu octets, %ld or more were expected", s->received % total + 1, s->body, size);
        ended = t = now();
        latencies[finished++] = t - s->began;
        s->began = t;
        octets += s->body;
        if (++s->received < total * repeat)
            ask_letters(s);
        else
            hold(s);
        break;
    default: /* P_QUIT */
        close_session(s);
        s->runs++;
    }
}

static size_t pop3_input(struct session *s)
{
    size_t at = 0;
    while (s->fd >= 0 && at < s->have) {
        char *here = s->input + at, *end;
        size_t left = s->have - at;
        if (!s->in_body) {
            if (!(end = memchr(here, '\n', left)))
                break;
            if (*here != '+' || s->state == HELD)
                die("answer in state %s of u%05ld: %.*s", STATE_NAMES[s->state], mailbox_of(s),
                    (int)(end - here), here);
            if (s->state != P_UIDL && s->state != P_RETR) {
                at += end - here + 1;
                pop3_response(s, here);
                continue;
            }
            at += end - here - 1; /* the CRLF stays: it may belong to CRLF.CRLF of an empty body */
            begin_body(s);
        } else if (s->skip) {
            size_t n = left < s->skip ? left : s->skip;
            s->skip -= n, s->body += n, at += n;
            if (n == left && n >= 5 && !memcmp(here + n - 5, "\r\n.\r\n", 5)) /* no letter has this inside */
                die("letter %ld has %zu octets, %ld or more were expected", s->received % total + 1, s->body - 5, size);
        } else if ((end = memmem(here, left, "\r\n.\r\n", 5))) {
            s->body += end - here;
            at += end - here + 5;
            s->in_body = 0;
            pop3_response(s, NULL);
        } else {
            if (left > 4)
                s->body += left - 4, at += left - 4;
            break;
        }
    }
    return at;
}

/* ------------------------------------------------------------------- loop */

/* A session that has ended opens the next connection as long as there is something left to do. */
static void begin_anew(struct session *s)
{
    if (next_message >= total || *mode == 'r' || *mode == 'i')
        return;
    if (*mode == 's')
        claim_message(s);
    else
        next_message++;
    live++;
    open_session(s);
}

static void readable(struct session *s)
{
    ssize_t n = read(s->fd, s->input + s->have, INPUT_SIZE - s->have);
    if (n < 0) {
        if (errno == EAGAIN)
            return;
        die("read in state %s: %s", STATE_NAMES[s->state], strerror(errno));
    }
    if (n == 0)
        die("the server closed the connection in state %s", STATE_NAMES[s->state]);
    s->have += n;
    size_t used = *mode == 's' ? smtp_input(s) : pop3_input(s);
    if (s->fd < 0)
        begin_anew(s);
    else if (s->have == used)
        s->have = 0;
    else if (used) {
        s->have -= used;
        memmove(s->input, s->input + used, s->have);
    } else if (s->have == INPUT_SIZE)
        die("a line of more than %d octets in state %s", INPUT_SIZE, STATE_NAMES[s->state]);
}

static double own_cpu(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
         + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void barrier(const char *word)
{
    char line[16];
    printf("%s\n", word);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        line[0] = 0; /* nobody there: go on */
}

/* Every session that is left waits: measure, then let them all go on together. */
static double release(int *round, double cpu_before)
{
    double cpu = own_cpu() - cpu_before;
    barrier(*round == 0 ? "ready" : "done");
    held = 0;
    int quit = *mode == 'i' || *round == 1;
    (*round)++;
    if (!quit) {
        started = now();
        cpu = own_cpu();
    }
    for (long i = 0; i < sessions; i++) {
        struct session *s = &all[i];
        if (s->state != HELD)
            continue;
        if (quit)
            say(s, P_QUIT, "QUIT\r\n");
        else {
            s->began = now();
            s->state = P_RETR;
            ask_letters(s);
        }
    }
    return cpu;
}

static void report_stall(void)
{
    for (enum state state = HELD; state <= P_QUIT; state++) {
        long count = 0;
        for (long i = 0; i < sessions; i++)
            count += all[i].fd >= 0 && all[i].state == state;
        if (count)
            fprintf(stderr, "load %s: %ld sessions wait in state %s\n", mode, count, STATE_NAMES[state]);
    }
    die("nothing happened for %ld seconds; %ld are done", timeout_seconds, finished);
}

static double run(void)
{
    struct epoll_event events[MAX_EVENTS];
    double last = now(), cpu = own_cpu();
    int round = 0;
    while (live > 0) {
        if (held == live && (*mode == 'r' || *mode == 'i'))
            cpu = release(&round, cpu);
        int n = epoll_wait(poller, events, MAX_EVENTS, 1000);
        if (n > 0)
            last = now();
        else if (now() - last > timeout_seconds)
            report_stall();
        for (int i = 0; i < n; i++) {
            struct session *s = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                flush(s);
                if (*mode == 'r' && s->state == P_RETR)
                    ask_letters(s);
            }
            if (s->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                readable(s);
        }
    }
    return *mode == 'r' ? cpu : own_cpu() - cpu; /* retr: without logins, as measured at "done" */
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_report(double cpu)
{
    double seconds = ended > started ? ended - started : 1e-9;
    qsort(latencies, finished, sizeof *latencies, ascending);
    printf("{\"mode\": \"%s\", \"count\": %ld, \"seconds\": %.6f, \"per_second\": %.2f, \"octets\": %lld, "
           "\"mb_per_second\": %.3f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, "
           "\"connections\": %ld, \"own_cpu_seconds\": %.4f}\n",
           mode, finished, seconds, finished / seconds, octets, octets / seconds / 1e6,
           finished ? latencies[finished / 2] * 1e3 : 0.0,
           finished ? latencies[finished * 99 / 100] * 1e3 : 0.0,
           finished ? latencies[finished - 1] * 1e3 : 0.0, connections, cpu);
}

static void read_options(int count, char **words)
{
    if (count < 2 || !strchr("spri", words[1][0]))
        die("usage: load smtp|poll|retr|idle name=value ... (see the top of load.c)");
    mode = words[1];
    for (int i = 2; i < count; i++) {
        size_t j, known = sizeof OPTIONS / sizeof *OPTIONS;
        char *value = strchr(words[i], '=');
        for (j = 0; value && j < known; j++)
            if (strlen(OPTIONS[j].name) == (size_t)(value - words[i])
                && !strncmp(OPTIONS[j].name, words[i], value - words[i]))
                break;
        if (!value || j == known)
            die("unknown option %s", words[i]);
        if (OPTIONS[j].number)
            *OPTIONS[j].number = atol(value + 1);
        else
            *OPTIONS[j].text = value + 1;
    }
    if (*mode == 'i')
        total = sessions;
    if (port < 1 || sessions < 1 || total < 1 || mailboxes < 1 || rcpts < 1 || depth < 1 || repeat < 1)
        die("port, sessions, messages, mailboxes, rcpts, depth and repeat must be at least 1");
    if (*mode != 's' && mailboxes < sessions)
        die("POP3 needs a mailbox for every session");
    if (strlen(domain) > 60 || strlen(password) > 60)
        die("domain and password may have 60 characters at most");
}

int main(int count, char **words)
{
    read_options(count, words);
    signal(SIGPIPE, SIG_IGN);
    server.sin_family = AF_INET;
    server.sin_port = htons(port);
    if (inet_pton(AF_INET, host, &server.sin_addr) != 1)
        die("host must be an IPv4 address");
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1: %s", strerror(errno));
    if (*mode == 's') {
        make_content(0), make_content(1);
        sessions = sessions < total ? sessions : total;
    } else if (*mode == 'p')
        sessions = sessions < total ? sessions : total;
    all = calloc(sessions, sizeof *all);
    latencies = calloc(*mode == 'r' ? total * repeat * sessions : total, sizeof *latencies);
    size_t room = 256 + 100 * (rcpts > depth ? rcpts : depth);
    started = now();
    live = sessions;
    for (long i = 0; i < sessions; i++) {
        all[i] = (struct session){ .fd = -1, .slot = i, .input = malloc(INPUT_SIZE), .commands = malloc(room) };
        if (!all[i].input || !all[i].commands)
            die("no memory for %ld sessions", sessions);
    }
    for (long i = 0; i < sessions && (*mode != 'i' || i < logins); i++) {
        if (*mode == 's')
            claim_message(&all[i]);
        else
            next_message++;
        opened++;
        open_session(&all[i]);
    }
    print_report(run());
    return 0;
}
