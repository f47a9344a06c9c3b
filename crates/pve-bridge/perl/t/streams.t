# Volumes as streams: what comes out, what goes in, and what is left when it does not.

use strict;
use warnings;

BEGIN {
    my ($dir) = __FILE__ =~ m{\A(.*?)[^/]*\z}s;
    unshift @INC, "${dir}lib", "${dir}..";
}

use Fcntl qw(SEEK_SET);
use File::Temp ();
use Test::More;

use PVE::Storage::Plugin ();
use PVE::Storage::Sanbridge::Client ();
use PVE::Storage::Sanbridge::Stream ();
use PVE::Storage::Custom::SanbridgePlugin ();
my $class = 'PVE::Storage::Custom::SanbridgePlugin';

my $scfg = { 'sanbridge-array' => 'ontap' };
my $dir = File::Temp->newdir();
my $MIB = 1024 * 1024;

# Volumes are files here; what the daemon was asked for is kept. What is used before it is confirmed is taken back where that
# fails, as the daemon does.
my (@asked, %sizes, $granule, $refusal, $detaching);
{
    no warnings qw(redefine once);
    *PVE::Storage::Sanbridge::Client::call = sub {
        my (%request) = @_;
        my ($method, $params) = @request{qw(method params)};
        push @asked, $method . ' ' . ($params->{name} // 'any');
        my $ok = {};
        if ($method eq 'volume.import') {
            return $request{otherwise}->{Unsupported}->("this daemon has no method\n") if $granule == 0;
            my $name = $params->{name} // 'vm-100-disk-7';
            if (defined($sizes{$name})) {
                my $otherwise = $request{otherwise}->{AlreadyExists} // die "the name is taken\n";
                return $otherwise->();
            }
            $sizes{$name} = $granule * int(($params->{size_bytes} + $granule - 1) / $granule);
            open(my $fh, '>', "$dir/$name") or die $!;
            truncate($fh, $sizes{$name}) or die $!;
            $ok = { name => $name, size_bytes => $sizes{$name} };
        } elsif ($method eq 'volume.attach') {
            die "$refusal\n" if defined($refusal);
            my $name = $params->{name} . (defined($params->{snapshot}) ? "\@$params->{snapshot}" : '');
            $ok = { path => "$dir/$name", size_bytes => $sizes{$name} };
        } elsif ($method eq 'volume.detach') {
            $detaching->() if defined($detaching);
        } elsif ($method eq 'volume.template') {
            my $name = $params->{name} =~ s/\Avm-/base-/r;
            rename("$dir/$params->{name}", "$dir/$name") or die $!;
            $sizes{$name} = delete $sizes{ $params->{name} };
            $ok = { name => $name };
        } elsif ($method eq 'volume.list') {
            $ok = { volumes => [map { { name => $_, vmid => $params->{vmid}, size_bytes => $sizes{$_} } } sort keys %sizes] };
        } elsif ($method eq 'volume.size') {
            $ok = { size_bytes => $sizes{ $params->{name} } };
        }
        my $result = $request{answer}->($ok, 'id');
        my $use = $request{use} // return $result;
        my $used = eval { $use->($result) };
        if (my $error = $@) {
            unlink("$dir/$result");
            delete $sizes{$result};
            die $error;
        }
        push @asked, 'confirmed';
        return $used;
    };
    *PVE::Storage::Custom::SanbridgePlugin::path = sub {
        return "$dir/" . ($_[0]->parse_volname($_[2]))[1] . (defined($_[4]) ? "\@$_[4]" : '');
    };
    *PVE::Storage::Sanbridge::Stream::is_device = sub { return 1 };
}
sub reset_all {
    (@asked, %sizes) = ();
    undef $refusal;
    undef $detaching;
    $granule = 4096;
}

sub volume {
    my ($name, $data) = @_;
    open(my $fh, '>', "$dir/$name") or die $!;
    print {$fh} $data;
    close($fh) or die $!;
    $sizes{$name} = length($data);
}

sub content {
    my ($name) = @_;
    open(my $fh, '<', "$dir/$name") or die $!;
    local $/ = undef;
    return scalar(<$fh>);
}

# A stream as a file; a pipe would do as well.
sub stream {
    my ($bytes) = @_;
    my $file = File::Temp->new(DIR => $dir);
    syswrite($file, $bytes) if length($bytes);
    sysseek($file, 0, SEEK_SET);
    return $file;
}

sub import_of {
    my ($bytes, $name, $allow_rename) = @_;
    return $class->volume_import($scfg, 's1', stream($bytes), $name, 'raw+size', undef, undef, 0, $allow_rename);
}

sub refused {
    my ($title, $pattern, $code) = @_;
    local $SIG{__WARN__} = sub { };
    eval { $code->() };
    like($@, $pattern, $title);
}

my $data = join('', map { chr($_ % 251) } 0 .. 199_999) . "\0" x 200_000 . 'the end of it' x 100;
my $odd = length($data);

subtest 'out' => sub {
    reset_all();
    volume('vm-100-disk-0', $data);
    my $out = File::Temp->new(DIR => $dir);
    is($class->volume_export($scfg, 's1', $out, 'vm-100-disk-0', 'raw+size'), undef, 'exported');
    is(content(($out->filename =~ m!([^/]+)\z!)[0]), pack('Q<', $odd) . $data, 'its size and its bytes');
    volume('vm-100-disk-0', substr($data, 0, 100));
    $sizes{'vm-100-disk-0'} = 200;
    refused('a device that is too short', qr/100 of its 200 bytes/, sub {
        $class->volume_export($scfg, 's1', $out, 'vm-100-disk-0', 'raw+size');
    });
};

subtest 'in' => sub {
    reset_all();
    is(import_of(pack('Q<', $odd) . $data, 'vm-100-disk-0'), 's1:vm-100-disk-0', 'imported');
    is(substr(content('vm-100-disk-0'), 0, $odd), $data, 'its bytes');
    ok(length(content('vm-100-disk-0')) >= $odd, 'in a volume as large as the array makes them');
    is_deeply(
        \@asked,
        ['volume.import vm-100-disk-0', 'volume.attach vm-100-disk-0', 'volume.detach vm-100-disk-0', 'confirmed'],
        'made, attached, detached again, and confirmed last',
    );
    refused('a name that is taken', qr/taken/, sub { import_of(pack('Q<', $odd) . $data, 'vm-100-disk-0') });
    local $SIG{__WARN__} = sub { };
    is(import_of(pack('Q<', 3) . 'abc', 'vm-100-disk-0', 1), 's1:vm-100-disk-7', 'another name where that is allowed');
    is(substr(content('vm-100-disk-7'), 0, 4), "abc\0", 'a disk of its own');
    is(substr(content('vm-100-disk-0'), 0, $odd), $data, 'and the other stays as it is');
};

subtest 'zeroes are not written' => sub {
    reset_all();
    is(import_of(pack('Q<', 8 * $MIB) . "\0" x (8 * $MIB), 'vm-100-disk-0'), 's1:vm-100-disk-0', 'imported');
    is((stat("$dir/vm-100-disk-0"))[12], 0, 'no block is used');
};

subtest 'what does not fit leaves nothing' => sub {
    my @cases = (
        ['no header', '', qr/no size/],
        ['half a header', 'abc', qr/no size/],
        ['nothing in it', pack('Q<', 0), qr/announces 0/],
        ['more than there is', pack('Q<', 2**60), qr/announces/],
        ['an end too early', pack('Q<', $odd) . substr($data, 0, -1), qr/ends after/],
        ['more than announced', pack('Q<', $odd - 1) . $data, qr/longer/],
    );
    for my $case (@cases) {
        my ($title, $bytes, $pattern) = $case->@*;
        reset_all();
        refused($title, $pattern, sub { import_of($bytes, 'vm-100-disk-0') });
        is_deeply(\%sizes, {}, "$title: nothing is left");
    }
    reset_all();
    $refusal = 'no path';
    refused('it cannot be attached', qr/no path/, sub { import_of(pack('Q<', $odd) . $data, 'vm-100-disk-0') });
    is_deeply(\%sizes, {}, 'nothing is left');
};

subtest 'a template' => sub {
    reset_all();
    my $bytes = pack('Q<', 3) . 'abc';
    is(import_of($bytes, 'base-100-disk-0'), 's1:base-100-disk-0', 'becomes one again');
    is(substr(content('base-100-disk-0'), 0, 4), "abc\0", 'its bytes');
    is_deeply(
        \@asked,
        [
            'volume.list any', 'volume.import vm-100-disk-0', 'volume.attach vm-100-disk-0', 'volume.detach vm-100-disk-0',
            'volume.template vm-100-disk-0', 'confirmed',
        ],
        'made as a disk',
    );
    refused('a name that is taken', qr/'base-100-disk-0' exists/, sub { import_of($bytes, 'base-100-disk-0') });
    volume('vm-100-disk-1', 'abc');
    refused('a name that a disk needs', qr/'base-100-disk-1' exists/, sub { import_of($bytes, 'base-100-disk-1') });
    local $SIG{__WARN__} = sub { };
    is(import_of($bytes, 'base-100-disk-1', 1), 's1:base-100-disk-2', 'another name where that is allowed');
    is(join(' ', sort keys %sizes), 'base-100-disk-0 base-100-disk-2 vm-100-disk-1', 'nothing else is left');
    is(import_of($bytes, 'base-199-disk-1/base-100-disk-9'), 's1:base-100-disk-9', 'of a linked clone: independent');
};

subtest 'a shorter device is refused before a byte is written' => sub {
    reset_all();
    no warnings 'redefine';
    my $attach = \&PVE::Storage::Custom::SanbridgePlugin::activate_volume;
    local *PVE::Storage::Custom::SanbridgePlugin::activate_volume = sub {
        truncate("$dir/$_[3]", 100) or die $!;
        return $attach->(@_);
    };
    refused('shorter', qr/only 100 of the/, sub { import_of(pack('Q<', $odd) . $data, 'vm-100-disk-0') });
    is_deeply(\%sizes, {}, 'nothing is left');
};

subtest 'an interrupted import leaves nothing' => sub {
    reset_all();
    pipe(my $reader, my $writer) or die $!;
    my $child = fork() // die $!;
    if ($child == 0) {
        close($reader);
        syswrite($writer, pack('Q<', 8 * $MIB) . substr($data, 0, 100_000));
        kill('TERM', getppid());
        sleep(5);
        exit(0);
    }
    close($writer);
    refused('interrupted', qr/signal/, sub {
        # As PVE's workers do.
        local $SIG{TERM} = sub { die "interrupted by a signal\n" };
        $class->volume_import($scfg, 's1', $reader, 'vm-100-disk-0', 'raw+size', undef, undef, 0);
    });
    kill('KILL', $child);
    waitpid($child, 0);
    is_deeply(\%sizes, {}, 'nothing is left');
};

subtest 'what is written is not lost because it stays attached' => sub {
    reset_all();
    my $bytes = pack('Q<', $odd) . $data;
    $detaching = sub { PVE::Storage::Sanbridge::Client::fail("somebody has it open\n") };
    my @warned;
    local $SIG{__WARN__} = sub { push @warned, @_ };
    is(import_of($bytes, 'vm-100-disk-0'), 's1:vm-100-disk-0', 'imported');
    is($asked[-1], 'confirmed', 'and confirmed');
    is_deeply(
        \@warned,
        ["sanbridge: 'vm-100-disk-0' is written, but stays attached on this node: somebody has it open\n"],
        'people are told',
    );
    $detaching = sub { die "interrupted by a signal\n" };
    refused('a signal', qr/signal/, sub { import_of($bytes, 'vm-100-disk-1') });
    is(join(' ', keys %sizes), 'vm-100-disk-0', 'is one then too');
};

subtest 'a daemon that is older than the plugin' => sub {
    reset_all();
    $granule = 0;
    for my $allow_rename (0, 1) {
        refused('is named', qr/no method -- .*systemctl restart sanbridge\.service$/, sub {
            import_of(pack('Q<', 3) . 'abc', 'vm-100-disk-0', $allow_rename);
        });
    }
};

subtest 'formats' => sub {
    for my $method (qw(volume_export_formats volume_import_formats)) {
        is_deeply([$class->$method($scfg, 's1', 'vm-100-disk-0', undef, undef, 0)], ['raw+size'], $method);
        is_deeply([$class->$method($scfg, 's1', 'vm-100-disk-0', 'snap', 'older', 0)], [], "$method of a difference");
        is_deeply([$class->$method($scfg, 's1', 'vm-100-disk-0', undef, undef, 1)], [], "$method with snapshots");
    }
    my $of_snapshot = [$scfg, 's1', 'vm-100-disk-0', 'snap', undef, 0];
    is_deeply([$class->volume_export_formats($of_snapshot->@*)], ['raw+size'], 'a snapshot goes out');
    is_deeply([$class->volume_import_formats($of_snapshot->@*)], [], 'none comes in');
    refused('qcow2', qr/only as raw\+size/, sub {
        $class->volume_export($scfg, 's1', \*STDOUT, 'vm-100-disk-0', 'qcow2+size');
    });
    refused('snapshots', qr/cannot be streamed/, sub {
        $class->volume_import($scfg, 's1', \*STDIN, 'vm-100-disk-0', 'raw+size', undef, undef, 1);
    });
};

subtest 'a snapshot goes out' => sub {
    reset_all();
    my $name = "vm-100-disk-0\@before";
    ($sizes{'vm-100-disk-0'}, $sizes{$name}) = (2 * $MIB, $MIB);
    open(my $disk, '>', "$dir/$name") or die $!;
    print $disk 'x' x $MIB;
    close($disk) or die $!;
    my $file = File::Temp->new();
    $class->volume_export($scfg, 's1', $file, 'vm-100-disk-0', 'raw+size', 'before', undef, 0);
    is(-s $file->filename, 8 + $MIB, 'as large as it was then');
    is_deeply(\@asked, ['volume.attach vm-100-disk-0'], 'it is attached');
    unlink("$dir/$name");
};

done_testing();
