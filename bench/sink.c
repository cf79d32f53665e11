/* Who listens: many clients that only count what they are sent.
 *
 *   sink PORT CONNECTIONS PATH COOKIE FIRST PREFIX REPLIES
 *
 * They speak WebSocket, or where PATH is empty the lines of NATS.  Where PREFIX begins with a star
 * they take whatever comes, several messages in a frame or server-sent events: every {"type":" in it
 * begins one, and PATH is asked for without an upgrade if it ends with /events.  Connects them all, says FIRST on each (nothing if it is empty), waits until each has had REPLIES
 * messages, and prints "ready".  Then each line on standard input, a number N, is answered twice:
 * "go" at once, and when every connection has had N more messages that begin with PREFIX, the
 * seconds from the first byte to the last.
 *
 * Pings are answered, without what they carried.  Frames are counted by their headers (RFC 6455,
 * section 5.2); a server's are not masked.  To NATS every message counts, whatever it begins with.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 10
#define PREFIX_MAX 64
#define LINE_MAX 1024 /* of a line of NATS; its first one describes the server */
#define CARRY_MAX LINE_MAX
#define READ_BYTES (1 << 20)
#define SILENCE_MS 30000

struct client {
  int fd;
  uint64_t skip;               /* what is still to come of the frame that was counted */
  size_t carried;              /* bytes of a frame's beginning that the next read completes */
  unsigned char carry[CARRY_MAX];
  long counted, wanted, other; /* messages with the prefix, how many there should be, the rest */
};

static const char *prefix;
static size_t prefix_bytes;
static struct client *clients;
static int connections, epoll;
static int is_nats, is_any;
static int waiting;          /* clients that lack something */
static long replies;         /* other messages that each is to have */
static double first_s;       /* when the first byte came since the last line; 0 before */
static unsigned char buffer[CARRY_MAX + READ_BYTES];

static void fail(const char *why) {
  fprintf(stderr, "sink: %s (%s)\n", why, strerror(errno));
  exit(1);
}

static double now_s(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec + at.tv_nsec * 1e-9;
}

static void write_all(int fd, const void *data, size_t bytes) {
  if (write(fd, data, bytes) != (ssize_t)bytes) fail("a short write");
}

/* Count what is in the buffer behind the carried bytes. */
static void feed(struct client *client, size_t bytes) {
  unsigned char *at = buffer + CARRY_MAX - client->carried, *end = buffer + CARRY_MAX + bytes;
  memcpy(at, client->carry, client->carried);
  client->carried = 0;
  for (;;) {
    size_t left = end - at;
    if (client->skip >= left) {
      client->skip -= left;
      return;
    }
    at += client->skip;
    left -= client->skip;
    client->skip = 0;
    size_t head = left < 2 ? 2 : (at[1] & 127) == 126 ? 4 : (at[1] & 127) == 127 ? 10 : 2;
    if (left >= head) {
      uint64_t length = at[1] & 127;
      if (length > 125) {
        length = 0;
        for (size_t i = 2; i < head; i++) length = length << 8 | at[i];
      }
      int is_text = (at[0] & 15) == 1;
      if (at[0] == 0x89) write_all(client->fd, "\x8a\x80\0\0\0\0", 6); /* a ping: a pong */
      if (!is_text || length < prefix_bytes || left >= head + prefix_bytes) {
        int matches = is_text && length >= prefix_bytes && !memcmp(at + head, prefix, prefix_bytes);
        client->counted += matches;
        client->other += is_text && !matches;
        client->skip = head + length;
        continue;
      }
    }
    memcpy(client->carry, at, left);
    client->carried = left;
    return;
  }
}

/* The same for NATS: "MSG subject number bytes", and then so many bytes and an end of line. */
static void feed_lines(struct client *client, size_t bytes) {
  unsigned char *at = buffer + CARRY_MAX - client->carried, *end = buffer + CARRY_MAX + bytes;
  memcpy(at, client->carry, client->carried);
  client->carried = 0;
  while ((size_t)(end - at) > client->skip) {
    at += client->skip;
    client->skip = 0;
    unsigned char *stop = memchr(at, '\n', end - at);
    if (!stop) {
      if (end - at > CARRY_MAX) fail("a line is too long");
      memcpy(client->carry, at, end - at);
      client->carried = end - at;
      return;
    }
    if (!memcmp(at, "MSG ", 4)) {
      unsigned char *digits = stop - 1;
      while (digits[-1] != ' ') digits--;
      client->counted++;
      client->skip = strtoul((char *)digits, NULL, 10) + 2;
    } else if (!memcmp(at, "PING", 4)) {
      write_all(client->fd, "PONG\r\n", 6);
    } else if (*at == '-') {
      fwrite(at, 1, stop - at, stderr);
      fail("the server refuses");
    } else {
      client->other++;
    }
    at = stop + 1;
  }
  client->skip -= end - at;
}

/* The same whatever the framing: messages are JSON, and begin with their type. */
static void feed_any(struct client *client, size_t bytes) {
  static const char mark[] = "{\"type\":\"";
  unsigned char *at = buffer + CARRY_MAX - client->carried, *end = buffer + CARRY_MAX + bytes;
  memcpy(at, client->carry, client->carried);
  client->carried = 0;
  for (;;) {
    unsigned char *found = memmem(at, end - at, mark, sizeof mark - 1);
    if (!found) {
      size_t left = end - at < (long)sizeof mark - 2 ? end - at : (long)sizeof mark - 2;
      memcpy(client->carry, end - left, client->carried = left);
      return;
    }
    if ((size_t)(end - found) < prefix_bytes) {
      memcpy(client->carry, found, client->carried = end - found);
      return;
    }
    int matches = !memcmp(found, prefix, prefix_bytes);
    client->counted += matches;
    client->other += !matches;
    at = found + sizeof mark - 1;
  }
}

static void connect_one(struct client *client, int port, const char *path, const char *cookie) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int one = 1;
  client->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(client->fd, (void *)&address, sizeof address)) fail("cannot connect");
  setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (is_nats) return;
  char head[4096];
  const char *last = strrchr(path, '/');
  const char *upgrade = is_any && !strcmp(last, "/events") ? "" :
                        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n";
  int length = snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%s%s%s\r\n",
                        path, upgrade, *cookie ? "Cookie: " : "", cookie, *cookie ? "\r\n" : "");
  write_all(client->fd, head, length);
}

/* Read the answer to the upgrade; a frame may follow it in the same read. */
static void await_upgrade(struct client *client) {
  unsigned char *data = buffer + CARRY_MAX, *end = NULL;
  size_t bytes = 0;
  while (!end) {
    ssize_t more = read(client->fd, data + bytes, 8192 - bytes);
    if (more <= 0) fail("the handshake ended early");
    bytes += more;
    end = memmem(data, bytes, "\r\n\r\n", 4);
  }
  if (!memmem(data, bytes, " 101 ", 5) && !(is_any && memmem(data, bytes, " 200 ", 5))) {
    fwrite(data, 1, bytes, stderr);
    fail("the upgrade was refused");
  }
  size_t left = data + bytes - (end + 4);
  memmove(data, end + 4, left);
  if (is_any) feed_any(client, left);
  else feed(client, left);
}

/* Say a text message, masked with zeros (RFC 6455, section 5.3 wants a mask, not a secret). */
static void say(struct client *client, const char *text) {
  size_t length = strlen(text);
  if (!length) return;
  if (is_nats) {
    write_all(client->fd, text, length);
    return;
  }
  unsigned char brief[] = {0x81, 0x80 | length, 0, 0, 0, 0};
  unsigned char longer[] = {0x81, 0x80 | 126, length >> 8, length & 255, 0, 0, 0, 0};
  if (length < 126) write_all(client->fd, brief, sizeof brief);
  else write_all(client->fd, longer, sizeof longer);
  write_all(client->fd, text, length);
}

static int waits(const struct client *client) {
  return client->counted < client->wanted || client->other < replies;
}

/* Read what is there; tell whether there is something on standard input. */
static int pump(void) {
  struct epoll_event events[512];
  int asked = 0, ready = epoll_wait(epoll, events, 512, waiting ? SILENCE_MS : -1);
  if (ready == 0) fail("nothing more comes");
  for (int i = 0; i < ready; i++) {
    struct client *client = events[i].data.ptr;
    if (!client) {
      asked = 1;
      continue;
    }
    ssize_t got = read(client->fd, buffer + CARRY_MAX, READ_BYTES);
    if (got < 0 && errno == EAGAIN) continue;
    if (got <= 0) fail("the server hung up");
    if (!first_s) first_s = now_s();
    int waited = waits(client);
    if (is_nats) feed_lines(client, got);
    else if (is_any) feed_any(client, got);
    else feed(client, got);
    waiting -= waited && !waits(client);
  }
  return asked;
}

static void watch(int fd, struct client *client) {
  struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = client}};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("cannot wait");
}

static void count_to(long more) {
  waiting = 0;
  for (int i = 0; i < connections; i++) {
    clients[i].wanted += more;
    waiting += waits(&clients[i]);
  }
}

/* Answer one line on standard input; tell whether there was one. */
static int answer(void) {
  char line[64] = "";
  if (read(0, line, sizeof line - 1) <= 0) return 0;
  count_to(atol(line));
  first_s = 0;
  printf("go\n");
  fflush(stdout);
  while (waiting) pump();
  printf("%.6f\n", now_s() - first_s);
  fflush(stdout);
  return 1;
}

int main(int count, char **arguments) {
  if (count != 8) fail("arguments: port connections path cookie first prefix replies");
  int port = atoi(arguments[1]);
  connections = atoi(arguments[2]);
  is_nats = !*arguments[3];
  is_any = *arguments[6] == '*';
  prefix = arguments[6] + is_any;
  prefix_bytes = strlen(prefix);
  if (prefix_bytes > PREFIX_MAX) fail("the prefix is too long");
  clients = calloc(connections, sizeof *clients);
  epoll = epoll_create1(0);
  for (int i = 0; i < connections; i++) {
    struct client *client = &clients[i];
    connect_one(client, port, arguments[3], arguments[4]);
    if (!is_nats) await_upgrade(client);
    say(client, arguments[5]);
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    watch(client->fd, client);
  }
  replies = atol(arguments[7]);
  count_to(0);
  while (waiting) pump();
  printf("ready\n");
  fflush(stdout);
  watch(0, NULL);
  while (!pump() || answer()) continue;
  return 0;
}
