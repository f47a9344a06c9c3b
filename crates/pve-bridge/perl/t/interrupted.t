# PVE's alarm and other signals: a die of theirs passes through, and what was not acknowledged is refused.

use strict;
use warnings;

BEGIN {
    my ($dir) = __FILE__ =~ m{\A(.*?)[^/]*\z}s;
    unshift @INC, "${dir}lib", "${dir}..";
}

use JSON::PP ();
use Test::More;
use Time::HiRes ();

use FakeDaemon ();
use PVE::Storage::Plugin ();
use PVE::Storage::Custom::SanbridgePlugin ();
my $class = 'PVE::Storage::Custom::SanbridgePlugin';

my $scfg = { type => 'sanbridge', content => { images => 1 }, 'sanbridge-array' => 'ontap' };
my $yes = JSON::PP::true;

# Allocates under an alarm as PVE sets them, after so many seconds.
sub alloc_under_alarm {
    my ($seconds) = @_;
    my $before = Time::HiRes::time();
    my $name = eval {
        local $SIG{ALRM} = sub { die "timed out - aborting\n" };
        alarm($seconds);
        my $made = $class->alloc_image('s1', $scfg, 100, 'raw', undef, 1024);
        alarm(0);
        $made;
    };
    my $err = $@;
    alarm(0);
    return ($name, $err, Time::HiRes::time() - $before);
}

subtest 'an alarm' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->read; $_[0]->read });
    my ($name, $err, $took) = alloc_under_alarm(1);
    is($err, "timed out - aborting\n", 'comes through unchanged');
    ok($took < 2, "at its time ($took s)");
    my @notes = $daemon->notes;
    is(scalar(grep { $_->{frame} } @notes), 1, 'nothing was acknowledged');
    ok($notes[-1]->{eof}, 'the connection was closed: a refusal');
};

subtest 'the alarm during a retry of the connection' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->read });
    my ($name, $err, $took) = alloc_under_alarm(1);
    like($err, qr/timed out/, 'comes through');
    ok($took < 2, "at its time ($took s)");
};

subtest 'the alarm before the acknowledgement' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'vm-100-disk-0', size_bytes => 1048576 }, ack => $yes) });
    no warnings 'redefine';
    my $original = \&PVE::Storage::Sanbridge::Client::acknowledge;
    local *PVE::Storage::Sanbridge::Client::acknowledge = sub { die "got alarm\n" };
    my ($name, $err) = alloc_under_alarm(30);
    is($err, "got alarm\n", 'comes through');
    my @notes = $daemon->notes;
    is(scalar(grep { $_->{frame} } @notes), 1, 'nothing was acknowledged');
    ok($notes[-1]->{eof}, 'the connection was closed: a refusal');
};

subtest 'a caller that is killed' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->read; $_[0]->read });
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        $class->alloc_image('s1', $scfg, 100, 'raw', undef, 1024);
        require POSIX;
        POSIX::_exit(0);
    }
    select(undef, undef, undef, 0.5);
    kill('KILL', $pid);
    waitpid($pid, 0);
    my @notes = $daemon->notes;
    ok($notes[-1]->{eof}, 'closes the connection: a refusal');
};

subtest 'signals whose handlers return' => sub {
    my $caught = 0;
    local $SIG{USR1} = sub { $caught++ };
    my $parent = $$;
    my $daemon = FakeDaemon->start(sub {
        my ($c) = @_;
        my $request = $c->read;
        my $json = JSON::PP->new->encode({ v => 1, id => $request->{id}, ok => { name => 'vm-100-disk-0', size_bytes => 1048576 } });
        for my $part (pack('N', length($json)), $json =~ m/(.{1,10})/gs) {
            kill('USR1', $parent);
            select(undef, undef, undef, 0.02);
            $c->write_raw($part);
        }
    });
    my ($name, $err) = alloc_under_alarm(30);
    is($name, 'vm-100-disk-0', 'change nothing') or diag($err);
    ok($caught > 3, "$caught signals were handled");
};

subtest 'nothing of the process is changed' => sub {
    my %before = %SIG;
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'vm-100-disk-0', size_bytes => 1048576 }, ack => $yes) });
    local $@ = 'mine';
    alarm(100);
    $class->alloc_image('s1', $scfg, 100, 'raw', undef, 1024);
    my $left = alarm(0);
    ok($left > 95, 'an alarm of the caller goes on');
    is_deeply({%SIG}, \%before, 'no handler is set');
    opendir(my $dh, '/proc/self/fd') or die $!;
    my @sockets = grep { (readlink("/proc/self/fd/$_") // '') =~ m/\Asocket:/ } readdir($dh);
    is(scalar(@sockets), 0, 'no connection is kept');
};

subtest 'a closed connection does not kill' => sub {
    my $daemon = FakeDaemon->start(sub { }, sub { $_[0]->answer(ok => { name => 'vm-100-disk-0', size_bytes => 1048576 }) });
    my $name = eval { $class->alloc_image('s1', $scfg, 100, 'raw', undef, 1024) };
    is($name, 'vm-100-disk-0', 'no SIGPIPE') or diag($@);
};

done_testing();
