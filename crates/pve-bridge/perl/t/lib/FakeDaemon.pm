package FakeDaemon;

# A daemon for tests: a child process on a socket of its own that handles one connection after the other with the subs
# it was given, and notes every frame. When they are used up it stops listening.

use strict;
use warnings;

use File::Temp ();
use IO::Socket::UNIX ();
use JSON::PP ();
use PVE::Storage::Sanbridge::Client ();

my $JSON = JSON::PP->new->utf8->canonical;

# start(handler, ...): a handler gets the connection and may call read, write, write_raw; undef from read is its end.
sub start {
    my ($class, @handlers) = @_;
    my $dir = File::Temp->newdir();
    my ($path) = "$dir" =~ m/\A(.*)\z/s;
    my $listener = IO::Socket::UNIX->new(Local => "$path/socket", Listen => 16) or die "listen: $!";
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        alarm(30); # never outlive a test that hangs
        open(my $log, '>', "$path/log") or die "log: $!";
        $log->autoflush(1);
        my $n = 0;
        for my $handler (@handlers) {
            my $socket = $listener->accept() or die "accept: $!";
            my $conn = bless { socket => $socket, log => $log, n => ++$n }, 'FakeDaemon::Connection';
            eval { $handler->($conn) };
            print {$log} $JSON->encode({ connection => $n, died => "$@" }), "\n" if $@;
        }
        close($listener);
        require POSIX;
        POSIX::_exit(0);
    }
    close($listener);
    $PVE::Storage::Sanbridge::Client::SOCKET = "$path/socket";
    return bless { dir => $dir, path => $path, pid => $pid }, $class;
}

# Waits for the child to have used all handlers; the notes of what it read.
sub notes {
    my ($self) = @_;
    if (my $pid = delete $self->{pid}) { waitpid($pid, 0) }
    open(my $fh, '<', "$self->{path}/log") or die "log: $!";
    return map { $JSON->decode($_) } <$fh>;
}

sub frames { return map { $_->{frame} } grep { $_->{frame} } $_[0]->notes }

sub DESTROY {
    my ($self) = @_;
    return if !$self->{pid};
    local ($?, $!);
    kill('KILL', $self->{pid});
    waitpid($self->{pid}, 0);
}

package FakeDaemon::Connection;

sub read {
    my ($self) = @_;
    my $head = $self->read_bytes(4) // return $self->note({ eof => 1 });
    my $json = $self->read_bytes(unpack('N', $head)) // return $self->note({ eof => 1 });
    my $frame = $JSON->decode($json);
    $self->note({ frame => $frame });
    return $frame;
}

sub read_bytes {
    my ($self, $wanted) = @_;
    my $data = '';
    while (length($data) < $wanted) {
        sysread($self->{socket}, $data, $wanted - length($data), length($data)) or return undef;
    }
    return $data;
}

sub note {
    my ($self, $note) = @_;
    print { $self->{log} } $JSON->encode({ connection => $self->{n}, $note->%* }), "\n";
    return undef;
}

sub write {
    my ($self, $frame) = @_;
    my $json = $JSON->encode($frame);
    $self->write_raw(pack('N', length($json)) . $json);
}

sub write_raw {
    my ($self, $data) = @_;
    local $SIG{PIPE} = 'IGNORE';
    while (length($data)) {
        my $n = syswrite($self->{socket}, $data) // return;
        substr($data, 0, $n, '');
    }
}

# Reads the request, answers with the given members, and takes the acknowledgement if there is one to take.
sub answer {
    my ($self, %members) = @_;
    my $request = $self->read // return undef;
    $self->write({ v => 1, id => $request->{id}, %members });
    if ($members{ack} && $self->read) {
        $self->write({ v => 1, id => $request->{id}, acked => JSON::PP::true });
    }
    return $request;
}

1;
