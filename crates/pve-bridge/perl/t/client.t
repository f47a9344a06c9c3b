# The client against a daemon that behaves well, badly, or goes away.

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
use PVE::Storage::Sanbridge::Client ();

my $yes = JSON::PP::true;

# ask(wait, method): the result or undef, and the error
sub ask {
    my ($wait, %arg) = @_;
    my $result = eval {
        PVE::Storage::Sanbridge::Client::call(
            method => 'volume.create',
            wait => $wait,
            storage => { id => 's1', options => { 'sanbridge-array' => 'ontap' } },
            params => { vmid => 100 },
            answer => sub { $_[0]->{name} // die "bad 'name'\n" },
            %arg,
        );
    };
    return ($result, $@);
}

sub seconds {
    my ($code) = @_;
    my $before = Time::HiRes::time();
    $code->();
    return Time::HiRes::time() - $before;
}

subtest 'a good answer' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }) });
    my ($result, $err) = ask(5);
    is($result, 'x', 'its result') or diag($err);
    my ($request, @more) = $daemon->frames;
    like(delete $request->{id}, qr/\A[0-9a-f]{32}\z/, 'id');
    my $ms = delete $request->{timeout_ms};
    ok($ms > 4000 && $ms <= 4500, "told $ms ms");
    is_deeply(
        $request,
        {
            v => 1,
            method => 'volume.create',
            storage => { id => 's1', options => { 'sanbridge-array' => 'ontap' } },
            caller => { pid => $$, task => undef },
            params => { vmid => 100 },
        },
        'the rest of the request',
    );
    is(scalar(@more), 0, 'no acknowledgement where none is asked for');
};

subtest 'ids differ' => sub {
    my %seen;
    $seen{ PVE::Storage::Sanbridge::Client::new_id() } = 1 for 1 .. 100;
    is(scalar(keys %seen), 100, 'a hundred ids');
    my $daemon = FakeDaemon->start((sub { $_[0]->answer(ok => { name => 'x' }) }) x 2);
    ask(5) for 1 .. 2;
    my ($first, $second) = $daemon->frames;
    isnt($first->{id}, $second->{id}, 'each call has its own');
};

subtest "PVE's task is named" => sub {
    my $upid = 'UPID:node1:00001234:00ABCDEF:6720F0F0:qmsnapshot:100:root@pam:';
    my %cases = ("task $upid" => $upid, 'pvedaemon worker' => undef, "task $upid\nx" => undef, 'task x' => undef);
    for my $title (sort keys %cases) {
        local $0 = $title;
        is(PVE::Storage::Sanbridge::Client::task(), $cases{$title}, $title =~ s/\n/?/r);
    }
};

subtest 'an acknowledgement' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }, ack => $yes) });
    my ($result, $err) = ask(5);
    is($result, 'x', 'the result') or diag($err);
    my ($request, $ack) = $daemon->frames;
    is_deeply($ack, { v => 1, id => $request->{id}, ack => $yes }, 'was sent');
};

subtest 'an answer that is refused is not acknowledged' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { nome => 'x' }, ack => $yes) });
    my ($result, $err) = ask(5);
    like($err, qr/\Asanbridge daemon broke the protocol in volume\.create \(bad 'name'\) -- .*\n\z/, 'dies');
    my @notes = $daemon->notes;
    is(scalar(grep { $_->{frame} } @notes), 1, 'only the request was sent');
    ok($notes[-1]->{eof}, 'and the connection closed');
};

# What is handed out to be used before it is confirmed.

subtest 'what is used for longer than its call may take is confirmed then' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }, ack => $yes) });
    my @used;
    my ($result, $err) = ask(1, use => sub { push @used, @_; Time::HiRes::sleep(1.2); return 'filled' });
    is($result, 'filled', 'its result') or diag($err);
    is_deeply(\@used, ['x'], 'it was used once');
    is(($daemon->frames)[1]->{ack}, $yes, 'and confirmed');
};

subtest 'what is used in vain is not confirmed' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }, ack => $yes) });
    my ($result, $err) = ask(5, use => sub { die "no bytes\n" });
    is($err, "no bytes\n", 'dies');
    my @notes = $daemon->notes;
    is(scalar(grep { $_->{frame} } @notes), 1, 'only the request was sent');
    ok($notes[-1]->{eof}, 'and the connection closed');
};

subtest 'a daemon that went away meanwhile is told on a new connection' => sub {
    my $daemon = FakeDaemon->start(
        sub { my $request = $_[0]->read; $_[0]->write({ v => 1, id => $request->{id}, ok => { name => 'x' }, ack => $yes }) },
        sub { my $ack = $_[0]->read; $_[0]->write({ v => 1, id => $ack->{id}, acked => $yes }) },
    );
    my ($result, $err) = ask(1, use => sub { Time::HiRes::sleep(1.2); return 'filled' });
    is($result, 'filled', 'its result') or diag($err);
    my ($request, $ack) = $daemon->frames;
    is_deeply($ack, { v => 1, id => $request->{id}, ack => $yes }, 'the confirmation alone');
};

subtest 'an error that is expected' => sub {
    my $error = { kind => 'AlreadyExists', effect => 'none', message => 'it is there' };
    my %cases = (
        'of that kind' => [$error, 'instead', ''],
        'of another kind' => [{ $error->%*, kind => 'InUse' }, undef, "it is there\n"],
        'that may have done something' => [{ $error->%*, effect => 'unknown' }, undef, "it is there\n"],
    );
    for my $title (sort keys %cases) {
        my ($answer, $expected, $text) = $cases{$title}->@*;
        my $daemon = FakeDaemon->start(sub { $_[0]->answer(error => $answer) });
        my ($result, $err) = ask(5, otherwise => { AlreadyExists => sub { return 'instead' } });
        is($result, $expected, "$title: result");
        is($err, $text, "$title: error");
    }
};

subtest 'errors' => sub {
    my $full = {
        kind => 'OutOfSpace',
        effect => 'none',
        message => "aggregate aggr1\n is full",
        remedy => 'add disks',
        causes => ['create volume', "code 917\x{1b}[31m \x{fc}"],
    };
    my %cases = (
        "aggregate aggr1 is full (create volume: code 917?[31m ?) -- add disks\n" => $full,
        "gone\n" => { kind => 'NotFound', effect => 'none', message => 'gone', remedy => undef, causes => [] },
        "new kind\n" => { kind => 'Unheard', message => 'new kind' },
        "unknown error of the sanbridge daemon\n" => {},
        "unknown error of the sanbridge daemon (x)\n" => { message => ['x'], causes => ['x', '', undef, {}] },
    );
    for my $text (sort keys %cases) {
        my $daemon = FakeDaemon->start(sub { $_[0]->answer(error => $cases{$text}) });
        my ($result, $err) = ask(5);
        is($err, $text, 'text');
        is($result, undef, 'no result');
    }
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(error => { message => 'x' x 100_000 }) });
    my ($result, $err) = ask(5);
    is(length($err), 1501, 'a long text is cut');
};

subtest 'warnings' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }, warnings => ["a\nb", 'c']) });
    my @warned;
    local $SIG{__WARN__} = sub { push @warned, @_ };
    my ($result) = ask(5);
    is($result, 'x', 'the result');
    is_deeply(\@warned, ["sanbridge: a b\n", "sanbridge: c\n"], 'are passed on');
};

subtest 'a connection that breaks is made again with the same id' => sub {
    my %breaks = (
        'before the request is read' => sub { },
        'before the answer' => sub { $_[0]->read },
        'in the length' => sub { $_[0]->read; $_[0]->write_raw("\0\0") },
        'in the answer' => sub { $_[0]->read; $_[0]->write_raw(pack('N', 100) . '{"v":1,') },
    );
    for my $title (sort keys %breaks) {
        my $daemon = FakeDaemon->start($breaks{$title}, $breaks{$title}, sub { $_[0]->answer(ok => { name => 'x' }) });
        my ($result, $err) = ask(5);
        is($result, 'x', $title) or diag($err);
        my @frames = $daemon->frames;
        my %ids = map { $_->{id} => 1 } @frames;
        is(scalar(keys %ids), 1, 'one id');
        my $last = $frames[-1];
        is($last->{resend}, $yes, 'marked as sent again');
        ok($last->{timeout_ms} < 4400, 'with less time');
        is_deeply($last->{params}, { vmid => 100 }, 'and the same request');
        ok(!$frames[0]->{resend}, 'the first was not') if @frames > 1;
    }
};

subtest 'a daemon that always breaks' => sub {
    my $daemon = FakeDaemon->start((sub { $_[0]->read }) x 5);
    my ($result, $err);
    ok(seconds(sub { ($result, $err) = ask(20) }) < 5, 'is given up soon');
    like($err, qr/\Asanbridge daemon broke the connection 5 times during volume\.create -- .+\n\z/, 'and named');
    is(scalar($daemon->frames), 5, 'after five sendings');
};

subtest 'a daemon that goes away and does not come back' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->read });
    my ($result, $err);
    my $took = seconds(sub { ($result, $err) = ask(2) });
    ok($took > 1.5 && $took < 3, "is tried until the deadline ($took s)");
    like($err, qr/not running on this node/, 'then named');
};

subtest 'the connection breaks around the acknowledgement' => sub {
    my $lose = sub {
        my ($c) = @_;
        my $request = $c->read;
        $c->write({ v => 1, id => $request->{id}, ok => { name => 'x' }, ack => $yes });
        $c->read;
    };
    my $daemon = FakeDaemon->start($lose, sub { $_[0]->answer(acked => $yes) });
    my ($result, $err) = ask(5);
    is($result, 'x', 'it is confirmed on a new one') or diag($err);
    my @frames = $daemon->frames;
    is_deeply($frames[2], { v => 1, id => $frames[0]->{id}, ack => $yes }, 'by the acknowledgement alone');

    $daemon = FakeDaemon->start($lose, sub { $_[0]->answer(error => { kind => 'Cancelled', message => 'undone' }) });
    ($result, $err) = ask(5);
    is($result, undef, 'undone meanwhile: no success');
    is($err, "undone\n", 'but the error');

    $daemon = FakeDaemon->start($lose, sub { $_[0]->answer(ok => {}) });
    ($result, $err) = ask(5);
    like($err, qr/not confirmed/, 'anything else is no confirmation');

    $daemon = FakeDaemon->start($lose, (sub { $_[0]->read }) x 4);
    ($result, $err) = ask(20);
    like($err, qr/outcome is unknown/, 'never confirmed: said so');
};

subtest 'frames against the rules' => sub {
    my $frame = sub { my ($data) = @_; return sub { $_[0]->read; $_[0]->write_raw($data); $_[0]->read } };
    my $json = sub { return $frame->(pack('N', length($_[0])) . $_[0]) };
    my $of = sub { my (%m) = @_; return sub { my $r = $_[0]->read; $_[0]->write({ v => 1, id => $r->{id}, %m }) } };
    my %bad = (
        'too long' => [$frame->(pack('N', (16 << 20) + 1)), qr/16777217 bytes/],
        'all ones' => [$frame->("\xff\xff\xff\xff"), qr/4294967295 bytes/],
        'empty' => [$frame->("\0\0\0\0"), qr/0 bytes/],
        'HTTP' => [$frame->("HTTP/1.1 400 Bad Request\r\n\r\n"), qr/bytes/],
        'no JSON' => [$json->('{"v":1,'), qr/no JSON object/],
        'an array' => [$json->('[1]'), qr/no JSON object/],
        'a string' => [$json->('"x"'), qr/no JSON object/],
        'bad UTF-8' => [$json->("{\"v\":\"\xff\xfe\"}"), qr/protocol/],
        'no version' => [$of->(v => undef, ok => {}), qr/another version/],
        'version 2' => [$of->(v => 2, ok => {}), qr/another version/],
        'other id' => [$of->(id => 'f' x 32, ok => {}), qr/another request/],
        'neither' => [$of->(), qr/exactly one/],
        'both' => [$of->(ok => {}, error => {}), qr/exactly one/],
        'ok is no object' => [$of->(ok => 1), qr/no object/],
        'error is no object' => [$of->(error => 'x'), qr/no object/],
    );
    for my $title (sort keys %bad) {
        my ($handler, $pattern) = $bad{$title}->@*;
        my $daemon = FakeDaemon->start($handler);
        my ($result, $err);
        ok(seconds(sub { ($result, $err) = ask(5) }) < 1, "$title: at once");
        like($err, $pattern, "$title: says so");
        like($err, qr/\Asanbridge daemon broke the protocol[ -~]+ -- [ -~]+\n\z/, "$title: in one line");
        is(scalar($daemon->frames), 1, "$title: not repeated");
    }
    my $daemon = FakeDaemon->start($of->(v => 2, id => undef, error => { kind => 'Unsupported', message => 'speaks 2' }));
    my ($result, $err) = ask(5);
    is($err, "speaks 2\n", 'a daemon of another version may say so');
};

subtest 'long frames within the rules' => sub {
    my $name = 'x' x ((16 << 20) - 200);
    my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => $name }) });
    my ($result, $err) = ask(20);
    is(length($result // ''), length($name), 'a long answer') or diag($err);
    $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }) });
    ($result, $err) = ask(5, params => { names => ['x' x ((1 << 20) - 1000)] });
    is($result, 'x', 'a long request') or diag($err);
    $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }) });
    ($result, $err) = ask(5, params => { names => ['x' x (1 << 20)] });
    like($err, qr/too long/, 'a request too long is not sent');
};

subtest 'a slow daemon' => sub {
    my $daemon = FakeDaemon->start(sub { $_[0]->read; $_[0]->read });
    my ($result, $err);
    my $took = seconds(sub { ($result, $err) = ask(1) });
    ok($took > 0.9 && $took < 1.5, "is waited for until the deadline ($took s)");
    like($err, qr/\Asanbridge daemon did not answer volume\.create within 1 s -- .+\n\z/, 'then named');
    my @notes = $daemon->notes;
    ok($notes[-1]->{eof}, 'and the connection closed');

    my $drip = sub {
        my ($c) = @_;
        my $request = $c->read;
        my $json = JSON::PP->new->encode({ v => 1, id => $request->{id}, ok => { name => 'x' } });
        for my $byte (split //, pack('N', length($json)) . $json) {
            $c->write_raw($byte);
            select(undef, undef, undef, 0.005);
        }
    };
    $daemon = FakeDaemon->start($drip);
    ($result, $err) = ask(5);
    is($result, 'x', 'an answer in single bytes is put together') or diag($err);
    $daemon = FakeDaemon->start($drip);
    ($result, $err) = ask(0.2);
    like($err, qr/did not answer/, 'and does not extend the deadline');

    $daemon = FakeDaemon->start(sub { select(undef, undef, undef, 3) });
    ok(seconds(sub { ($result, $err) = ask(1, params => { names => ['x' x 1_000_000] }) }) < 1.5, 'nor does one that does not read');
    like($err, qr/did not answer/, 'named');
};

subtest 'no daemon' => sub {
    my $daemon = FakeDaemon->start();
    $daemon->notes; # gone; its socket file is still there
    my ($result, $err);
    my $took = seconds(sub { ($result, $err) = ask(30) });
    ok($took > 0.9 && $took < 1.5, "is tried for a second ($took s)");
    like($err, qr/\Asanbridge daemon is not running on this node \(.+: Connection refused\) -- systemctl start sanbridge\n\z/, 'says what to do');
    ok(seconds(sub { ($result, $err) = ask(30) }) < 0.2, 'the next call does not wait');
    like($err, qr/not running/, 'and says the same');

    $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }) });
    ($result, $err) = ask(5);
    is($result, 'x', 'a daemon that is back is seen at once') or diag($err);

    $PVE::Storage::Sanbridge::Client::SOCKET .= '-missing';
    ($result, $err) = ask(0.3);
    like($err, qr/No such file or directory/, 'a missing socket is told apart');
};

subtest 'a daemon that starts late' => sub {
    my $present = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }) });
    ask(5); # the absence noted above is forgotten
    my $late = FakeDaemon->start(sub { $_[0]->answer(ok => { name => 'x' }) });
    my $socket = $PVE::Storage::Sanbridge::Client::SOCKET;
    rename($socket, "$socket.later") or die $!;
    my $pid = fork() // die $!;
    if (!$pid) {
        select(undef, undef, undef, 0.4);
        rename("$socket.later", $socket);
        require POSIX;
        POSIX::_exit(0);
    }
    my ($result, $err) = ask(10);
    waitpid($pid, 0);
    is($result, 'x', 'is found') or diag($err);
};

done_testing();
