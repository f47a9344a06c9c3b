#!/usr/bin/perl -T
# As pvedaemon, pct and vzdump run it: everything that comes from outside is tainted, and nothing that is handed on is.

use strict;
use warnings;

BEGIN {
    my ($dir) = __FILE__ =~ m{\A(.*?)[^/]*\z}s;
    unshift @INC, "${dir}lib", "${dir}..";
}

use JSON::PP ();
use Scalar::Util qw(tainted);
use Test::More;

BEGIN {
    $ENV{PATH} = '/usr/sbin:/usr/bin:/sbin:/bin';
    delete @ENV{qw(IFS CDPATH ENV BASH_ENV TMPDIR)};
}

use FakeDaemon ();
use PVE::Storage::Plugin ();
use PVE::Storage::Custom::SanbridgePlugin ();
my $class = 'PVE::Storage::Custom::SanbridgePlugin';

my $taint = substr($^X, 0, 0); # an empty tainted string
ok(${^TAINT} && tainted($taint), 'taint mode is on');

my ($yes, $no) = (JSON::PP::true, JSON::PP::false);
my $scfg = {
    type => 'sanbridge',
    content => { images => 1 },
    'sanbridge-array' => "ontap$taint",
    'sanbridge-address' => "array.example$taint",
};
my $storeid = "s1$taint";
my $vol = "vm-100-disk-0$taint";

sub clean {
    my ($title, @values) = @_;
    my @flat = @values;
    while (@flat) {
        my $value = shift @flat;
        if (ref($value) eq 'ARRAY') { push @flat, $value->@* }
        elsif (ref($value) eq 'HASH') { push @flat, $value->%* }
        elsif (defined($value) && !ref($value)) { ok(!tainted($value), "$title: '$value' is not tainted") }
    }
}

clean('parse_volname', $class->parse_volname($vol));
clean('parse_volname of a clone', $class->parse_volname("base-100-disk-0/$vol"));
clean('path', $class->path($scfg, $vol, $storeid, "snap1$taint"));
clean('blockdev options', $class->qemu_blockdev_options($scfg, $storeid, $vol, '10.0', {}));

# asked(members, code): what the code returns with a daemon that answers so
sub asked {
    my ($members, $code) = @_;
    my $daemon = FakeDaemon->start(sub { $_[0]->answer($members->%*) });
    my @got = eval { $code->() };
    is($@, '', 'no error');
    $daemon->notes;
    return @got;
}

my $created = { name => 'vm-100-disk-3', size_bytes => 1048576 };
my ($name) = asked({ ok => $created, ack => $yes }, sub {
    $class->alloc_image($storeid, $scfg, "100$taint", "raw$taint", "vm-100-disk-3$taint", "1024$taint");
});
is($name, 'vm-100-disk-3', 'alloc_image');
clean('alloc_image', $name);

my ($images) = asked({ ok => { volumes => [{ name => 'vm-100-disk-0', vmid => 100, size_bytes => 5, used_bytes => 1, created => 2 }] } }, sub {
    $class->list_images($storeid, $scfg, "100$taint", undef, {});
});
is($images->[0]->{size}, 5, 'list_images');
clean('list_images', map { my $i = $_; map { $i->{$_} } qw(vmid size used ctime format) } $images->@*);

clean('status', asked({ ok => { total => 3, available => 2, used => 1, active => $yes } }, sub { $class->status($storeid, $scfg, {}) }));
clean('size', asked({ ok => $created }, sub { $class->volume_size_info($scfg, $storeid, $vol) }));
clean('identity', asked({ ok => { identity => 'x:y' } }, sub { $class->get_identity($scfg, $storeid) }));
clean('info', asked({ ok => { snapshots => { snap1 => { id => 'u', created => 3 } } } }, sub { $class->volume_snapshot_info($scfg, $storeid, $vol) }));
my $path = '/dev/sanbridge/s1/vm-100-disk-0';
asked({ ok => { path => $path, size_bytes => 5 }, ack => $yes }, sub { $class->activate_volume($storeid, $scfg, $vol, undef, {}) });
clean('map_volume', scalar($class->path($scfg, $vol, $storeid)));

my @blockers;
my $daemon = FakeDaemon->start(sub { $_[0]->answer(ok => { possible => $no, blockers => ['snap2'], reason => 'newer' }) });
ok(!eval { $class->volume_rollback_is_possible($scfg, $storeid, $vol, 'snap1', \@blockers); 1 }, 'blocked');
clean('blockers', @blockers);

$daemon = FakeDaemon->start(sub { $_[0]->answer(error => { kind => 'Busy', message => "busy $$", causes => ['x'], remedy => 'wait' }) });
ok(!eval { $class->deactivate_volume($storeid, $scfg, $vol); 1 }, 'an error');
clean('error text', $@);

done_testing();
