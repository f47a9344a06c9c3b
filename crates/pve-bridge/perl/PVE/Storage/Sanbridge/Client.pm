package PVE::Storage::Sanbridge::Client;

# The plugin's side of the daemon's socket: one framed request, its answer and its acknowledgement
# (PROTOCOL.md), with a deadline and without any state of its own between two calls.
#
# PVE guards its locks with SIGALRM and a handler that dies. So nothing here arms an alarm, sets a handler or waits
# inside an eval: such a die passes through, the socket goes out of scope, and the closed connection is the refusal.
# No wait blocks in the kernel for longer than SLICE, since a signal that comes just before a call begins is seen
# only after it.

use strict;
use warnings;

use Errno qw(EAGAIN ECONNREFUSED EINPROGRESS EINTR ENOENT EWOULDBLOCK);
use Fcntl qw(F_GETFL F_SETFL O_NONBLOCK FD_CLOEXEC F_SETFD);
use JSON::PP ();
use Socket qw(AF_UNIX MSG_NOSIGNAL SOCK_STREAM pack_sockaddr_un);
use Time::HiRes qw(CLOCK_MONOTONIC clock_gettime);

our $SOCKET = '/run/sanbridge/sanbridge.sock';

use constant {
    VERSION => 1,
    REQUEST_MAX => 1 << 20,
    ANSWER_MAX => 16 << 20,
    ANSWER_MARGIN => 0.5, # the daemon is told this much less than we wait, so that its own Timeout arrives
    SLICE => 0.5,
    CONNECT_BUDGET => 1, # seconds a socket that is not there is tried for
    CONNECT_STEP => 0.1,
    ABSENCE_REMEMBERED => 5,
    CONFIRM => 40, # seconds for confirming what was used for longer than its call may take
    SENDINGS_MAX => 5, # a request that takes the daemon down is not repeated for ever
};

# When a connect last failed for good in this process, so that a poll over many storages waits only once.
my $absent_since;

# What the daemon, or that there is none, last made a call die of. Whatever else one dies of comes from outside, such as the
# signals that PVE sends.
my $failure;

sub fail {
    ($failure) = @_;
    die $failure;
}

sub is_failure { return defined($failure) && $_[0] eq $failure }

sub now { return clock_gettime(CLOCK_MONOTONIC) }

# The codec PVE itself has loaded (JSON, mostly in C), else the core one: a long list is decoded much faster.
sub codec {
    my $class = JSON->can('new') ? 'JSON' : 'JSON::PP';
    return $class->new->utf8->canonical->allow_nonref(0);
}

# A new operation's id. Not from rand(): forked workers share its state.
sub new_id {
    open(my $fh, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom ($!)\n";
    my $got = sysread($fh, my $bytes, 16);
    die "cannot read /dev/urandom\n" if !defined($got) || $got != 16;
    my ($id) = unpack('H32', $bytes) =~ m/\A([0-9a-f]{32})\z/ or die "cannot make an id\n";
    return $id;
}

# Asks and returns what `answer` made of the daemon's `ok`; dies with one line otherwise.
#   method        the protocol's name
#   wait          seconds this call may take in all
#   storage       { id, options } or undef
#   params        hash of parameters
#   answer        sub(ok, operation id) that checks and untaints `ok` and returns the result; its die refuses the answer
#   otherwise     { kind => sub(its text) }: what gives the result instead where the daemon answers with an error of that kind and
#                 has certainly done nothing; optional
#   use           sub(result): what is done with what was handed out before that is confirmed, however long it takes; gives
#                 the result instead. Its die refuses the answer, and so does the end of this process: the daemon takes
#                 back what it handed out; optional
sub call {
    my (%arg) = @_;
    my $call = {
        method => $arg{method},
        id => new_id(),
        ends => now() + $arg{wait},
        waits => $arg{wait},
        body => {
            v => VERSION,
            method => $arg{method},
            caller => { pid => $$ + 0, task => task() },
            params => $arg{params} // {},
            $arg{storage} ? (storage => $arg{storage}) : (),
        },
    };
    $call->{body}->{id} = $call->{id};

    my ($sock, $answer) = exchange($call);
    if (my $error = $answer->{error}) {
        my $otherwise = ($arg{otherwise} // {})->{ $error->{kind} // '' };
        return $otherwise->(failure_text($error)) if $otherwise && ($error->{effect} // '') eq 'none';
        fail(failure_text($error));
    }

    my $result = eval { $arg{answer}->($answer->{ok}, $call->{id}) };
    if (my $err = $@) {
        chomp($err);
        broken_rule($call, $err); # dies; nothing was acknowledged, so the daemon undoes
    }
    if (my $use = $arg{use}) {
        $result = $use->($result);
        $call->{ends} = now() + CONFIRM;
    }
    acknowledge($call, $sock) if $answer->{ack};
    warn_of($answer->{warnings});
    return $result;
}

# PVE's task this process runs for, from the title PVE gives it.
sub task {
    return $0 =~ m/\Atask (UPID:[!-~]{1,250})\z/ ? $1 : undef;
}

# Sends the request and reads its answer, again on a new connection as often as one breaks.
sub exchange {
    my ($call) = @_;
    for my $sending (1 .. SENDINGS_MAX) {
        my $sock = connect_to($call, $sending > 1);
        my $left = $call->{ends} - now() - ANSWER_MARGIN;
        my $request = { $call->{body}->%*, timeout_ms => int(1000 * ($left > 0.1 ? $left : 0.1)) };
        $request->{resend} = \1 if $sending > 1;
        if (send_frame($call, $sock, $request)) {
            my $answer = receive_frame($call, $sock);
            return ($sock, check_answer($call, $answer)) if $answer;
        }
    }
    fail("sanbridge daemon broke the connection @{[SENDINGS_MAX]} times during $call->{method}"
        . " -- see: journalctl -u sanbridge\n");
}

# Confirms that the answer was taken. Only when the daemon has recorded that is the call a success; a daemon that went
# away in between is asked again with the acknowledgement alone.
sub acknowledge {
    my ($call, $sock) = @_;
    my $ack = { v => VERSION, id => $call->{id}, ack => \1 };
    for my $sending (1 .. SENDINGS_MAX) {
        $sock = connect_to($call, 1) if $sending > 1;
        next if !send_frame($call, $sock, $ack);
        my $reply = receive_frame($call, $sock) // next;
        check_envelope($call, $reply);
        fail(failure_text($reply->{error})) if defined($reply->{error});
        return if $reply->{acked};
        broken_rule($call, 'the acknowledgement was not confirmed');
    }
    fail("sanbridge daemon broke the connection while $call->{method} was confirmed; its outcome is unknown"
        . " -- see: journalctl -u sanbridge\n");
}

# A connected socket. A socket that nobody listens on is tried for a moment only, or, when the connection broke, until
# the deadline: a daemon that restarts is back soon.
sub connect_to {
    my ($call, $again) = @_;
    my $budget = $again ? $call->{ends} : now() + CONNECT_BUDGET;
    $budget = now()
        if !$again && defined($absent_since) && now() - $absent_since < ABSENCE_REMEMBERED;
    $budget = $call->{ends} if $budget > $call->{ends};
    pause(CONNECT_STEP) if $again;
    while (1) {
        socket(my $sock, AF_UNIX, SOCK_STREAM, 0) or die "cannot make a socket ($!)\n";
        fcntl($sock, F_SETFD, FD_CLOEXEC) or die "cannot prepare a socket ($!)\n";
        my $flags = fcntl($sock, F_GETFL, 0) or die "cannot prepare a socket ($!)\n";
        fcntl($sock, F_SETFL, $flags | O_NONBLOCK) or die "cannot prepare a socket ($!)\n";
        if (connect($sock, pack_sockaddr_un($SOCKET))) {
            undef $absent_since;
            return $sock;
        }
        my ($errno, $text) = ($! + 0, "$!");
        # a full queue: the daemon is there but busy
        my $busy = $errno == EAGAIN || $errno == EINPROGRESS || $errno == EINTR;
        timed_out($call) if $busy && now() >= $call->{ends};
        if (!$busy && now() >= $budget) {
            $absent_since = now();
            fail("sanbridge daemon is not running on this node ($SOCKET: $text)"
                . " -- systemctl start sanbridge\n")
                if $errno == ECONNREFUSED || $errno == ENOENT;
            fail("cannot reach the sanbridge daemon ($SOCKET: $text)\n");
        }
        pause(CONNECT_STEP);
    }
}

# Writes one frame; false when the other side closed.
sub send_frame {
    my ($call, $sock, $message) = @_;
    my $json = codec()->encode($message);
    die "sanbridge: request of @{[length($json)]} bytes is too long ($call->{method})\n"
        if length($json) > REQUEST_MAX;
    my $data = pack('N', length($json)) . $json;
    while (length($data)) {
        my $sent = send($sock, $data, MSG_NOSIGNAL);
        if (defined($sent)) {
            substr($data, 0, $sent, '');
        } elsif ($! == EAGAIN || $! == EWOULDBLOCK) {
            ready($call, $sock, 1);
        } elsif ($! != EINTR) {
            return 0;
        }
    }
    return 1;
}

# Reads one frame; undef when the connection broke before its end.
sub receive_frame {
    my ($call, $sock) = @_;
    my $head = receive_bytes($call, $sock, 4) // return undef;
    my $length = unpack('N', $head);
    broken_rule($call, "a frame of $length bytes") if $length == 0 || $length > ANSWER_MAX;
    my $json = receive_bytes($call, $sock, $length) // return undef;
    my $message = eval { codec()->decode($json) };
    broken_rule($call, 'a frame that is no JSON object') if ref($message) ne 'HASH';
    return $message;
}

sub receive_bytes {
    my ($call, $sock, $wanted) = @_;
    my $data = '';
    while (length($data) < $wanted) {
        my $got = sysread($sock, $data, $wanted - length($data), length($data));
        if (!defined($got)) {
            if ($! == EAGAIN || $! == EWOULDBLOCK) {
                ready($call, $sock, 0);
            } elsif ($! != EINTR) {
                return undef;
            }
        } elsif ($got == 0) {
            return undef;
        }
    }
    return $data;
}

# Waits until the socket can be read (or written), at most until the deadline.
sub ready {
    my ($call, $sock, $for_writing) = @_;
    while (1) {
        my $left = $call->{ends} - now();
        timed_out($call) if $left <= 0;
        my $bits = '';
        vec($bits, fileno($sock), 1) = 1;
        my $slice = $left < SLICE ? $left : SLICE;
        my $found = $for_writing
            ? select(undef, $bits, undef, $slice)
            : select($bits, undef, undef, $slice);
        return if $found > 0; # interrupted (-1) or nothing yet (0): look at the clock
    }
}

sub pause { select(undef, undef, undef, $_[0]) }

sub check_envelope {
    my ($call, $frame) = @_;
    # told apart first: a daemon of another version may not even know our ids
    fail(failure_text($frame->{error}))
        if ($frame->{v} // '') ne VERSION && ref($frame->{error}) eq 'HASH';
    broken_rule($call, 'an answer of another version') if ($frame->{v} // '') ne VERSION;
    broken_rule($call, 'an answer to another request') if ($frame->{id} // '') ne $call->{id};
    broken_rule($call, 'an error that is no object')
        if defined($frame->{error}) && ref($frame->{error}) ne 'HASH';
}

sub check_answer {
    my ($call, $frame) = @_;
    check_envelope($call, $frame);
    broken_rule($call, 'an answer without exactly one of ok and error')
        if defined($frame->{ok}) == defined($frame->{error});
    broken_rule($call, 'a result that is no object')
        if defined($frame->{ok}) && ref($frame->{ok}) ne 'HASH';
    return $frame;
}

sub timed_out {
    my ($call) = @_;
    my $seconds = sprintf('%.0f', $call->{waits});
    fail("sanbridge daemon did not answer $call->{method} within $seconds s"
        . " -- see: journalctl -u sanbridge\n");
}

sub broken_rule {
    my ($call, $what) = @_;
    fail(one_line("sanbridge daemon broke the protocol in $call->{method} ($what)")
        . " -- plugin and daemon must come from the same package\n");
}

# The daemon's error as PVE shows it.
sub failure_text {
    my ($error) = @_;
    my $text = one_line($error->{message} // '');
    $text = 'unknown error of the sanbridge daemon' if $text eq '';
    my @causes = ref($error->{causes}) eq 'ARRAY' ? grep { $_ ne '' } map { one_line($_) } $error->{causes}->@* : ();
    $text .= ' (' . join(': ', @causes) . ')' if @causes;
    my $remedy = one_line($error->{remedy} // '');
    $text .= " -- $remedy" if $remedy ne '';
    return "$text\n";
}

sub warn_of {
    my ($warnings) = @_;
    return if ref($warnings) ne 'ARRAY';
    warn 'sanbridge: ' . one_line($_) . "\n" for $warnings->@*;
}

# Text from outside as one printable line of bounded length, untainted.
sub one_line {
    my ($text) = @_;
    return '' if !defined($text) || ref($text);
    $text =~ s/\s+/ /g;
    $text =~ s/[^ -~]/?/g;
    return $text =~ m/\A ?(.{0,1500})/ ? $1 =~ s/ \z//r : '';
}

1;
