#!/usr/bin/perl -T
# The life of a storage through the plugin's own methods, against a daemon that really runs (src/walk.rs starts it).
#
# Arguments: socket of node 1, socket of node 2. Input: the storage's options, one JSON line. Output: TAP, and between it
# lines "@ <place>", at each of which the walk waits for an input line: there the other side looks at the array and the
# nodes, and writes and reads what guests would. The plugin never opens a device, so its paths need not exist here.

use strict;
use warnings;

BEGIN {
    my ($dir) = __FILE__ =~ m{\A(.*?)[^/]*\z}s;
    my $perl = "${dir}../../crates/pve-bridge/perl";
    unshift @INC, "$perl/t/lib", $perl;
}

use JSON::PP ();
use Scalar::Util qw(tainted);
use Test::More;

use PVE::Storage::Plugin ();
use PVE::Storage::Sanbridge::Client ();
use PVE::Storage::Custom::SanbridgePlugin ();
my $class = 'PVE::Storage::Custom::SanbridgePlugin';

STDOUT->autoflush(1);
my ($one, $two) = map { m/\A(.+)\z/s } @ARGV; # ours, so not tainted; everything else is as PVE has it
my $given = JSON::PP->new->decode(scalar readline(STDIN));
my $password = delete $given->{'sanbridge-password'};
my $scfg = { $given->%*, type => 'sanbridge', shared => 1, content => { images => 1, rootdir => 1 } };
my $id = 'san1';
my ($KIB, $MIB) = (1024, 1024 * 1024);

sub on { $PVE::Storage::Sanbridge::Client::SOCKET = $_[0] }

sub place {
    my ($name) = @_;
    print STDOUT "@ $name\n";
    defined(readline(STDIN)) or die "nobody listens any more\n";
}

sub refused {
    my ($title, $pattern, $code) = @_;
    my @got = eval { $code->() };
    like($@, $pattern, "$title: refused");
    like($@, qr/\A[ -~]+\n\z/, "$title: in one printable line");
    unlike($@, qr/\Q$password\E/, "$title: without the password");
}

# PVE's poll gives the first contact with the array two seconds and comes again; on a slow machine it takes longer.
sub online {
    for my $poll (1 .. 10) {
        my $online = eval { $class->check_connection($id, $scfg) };
        return $online if defined($online) || $@ !~ m/answer|deadline/;
        eval { $class->activate_storage($id, $scfg, {}) };
    }
    return undef;
}

sub names { return join ' ', sort map { $_->{volid} } $_[0]->@* }

subtest 'adding' => sub {
    on($one);
    refused('before the add', qr/password/, sub { $class->activate_storage($id, $scfg, {}) });
    refused('a wrong password', qr/password/, sub {
        $class->on_add_hook($id, $scfg, 'sanbridge-password' => "not-$password");
    });
    refused('an unknown option', qr/sanbridge-colour is not known/, sub {
        $class->on_add_hook($id, { $scfg->%*, 'sanbridge-colour' => 'red' }, 'sanbridge-password' => $password);
    });
    refused('a wrong SVM', qr/no SVM other/, sub {
        $class->on_add_hook($id, { $scfg->%*, 'sanbridge-svm' => 'other' }, 'sanbridge-password' => $password);
    });
    place('refused');
    is($class->on_add_hook($id, $scfg, 'sanbridge-password' => $password), undef, 'added');
    for my $node ($one, $two) {
        on($node);
        is(online(), 1, 'online') or diag($@);
        is($class->activate_storage($id, $scfg, {}), 1, 'active');
    }
    place('added');
    on($one);
    my ($total, $free, $used, $active) = $class->status($id, $scfg, {});
    is($active, 1, 'status: active');
    ok($total > 0 && $free > 0, 'status: room');
    is($total - $free, $used, 'status: the sums fit');
    my $identity = $class->get_identity($scfg, $id);
    on($two);
    is($class->get_identity($scfg, $id), $identity, 'one identity on all nodes');
};

# name asked for, KiB asked for, bytes made
my @made = (
    ['vm-100-disk-0', undef, 8192, 8 * $MIB],
    ['vm-100-disk-1', undef, 528, 528 * $KIB], # EFI variables
    ['vm-100-disk-2', undef, 4096, 4 * $MIB], # TPM state
    ['vm-100-cloudinit', 'vm-100-cloudinit', 4096, 4 * $MIB],
    ['vm-100-state-before', 'vm-100-state-before', 12345, 12348 * $KIB], # all sizes: up to the next 4 KiB
    ['vm-100-fleece-0', 'vm-100-fleece-0', 1024, $MIB],
    ['vm-100-' . 'x' x 150, 'vm-100-' . 'x' x 150, 1024, $MIB],
    ['vm-101-disk-0', '', 976.5634765625, 980 * $KIB], # 1,000,001 bytes
);

subtest 'allocation' => sub {
    on($one);
    for my $case (@made) {
        my ($name, $wanted, $kib) = $case->@*;
        my ($vmid) = $name =~ m/\Avm-(\d+)/;
        my $got = $class->cluster_lock_storage($id, 1, undef, sub {
            return $class->alloc_image($id, $scfg, $vmid, 'raw', $wanted, $kib);
        });
        is($got, $name, "$name made");
        ok(!tainted($got), "$name is not tainted");
    }
    refused('a name that is taken', qr/vm-100-cloudinit/, sub {
        $class->alloc_image($id, $scfg, 100, 'raw', 'vm-100-cloudinit', 4096);
    });
    refused('a base', qr/base/, sub { $class->alloc_image($id, $scfg, 100, 'raw', 'base-100-disk-0', 1024) });
    place('allocated');
};

subtest 'sizes and lists' => sub {
    on($two);
    for my $case (@made) {
        my ($name, undef, undef, $bytes) = $case->@*;
        my ($size, $format, $used, $parent, $created) = $class->volume_size_info($scfg, $id, $name, 5);
        is($size, $bytes, "$name: size in list context");
        is($format, 'raw', "$name: raw");
        is($parent, undef, "$name: no parent");
        is(scalar($class->volume_size_info($scfg, $id, $name)), $bytes, "$name: size in scalar context");
    }
    refused('of nothing', qr/vm-100-disk-9/, sub { $class->volume_size_info($scfg, $id, 'vm-100-disk-9') });
    my $all = $class->list_images($id, $scfg, undef, undef, {});
    is(names($all), join(' ', sort map { "$id:$_->[0]" } @made), 'all of them');
    my %sizes = map { $_->{volid} => $_->{size} } $all->@*;
    is_deeply(\%sizes, { map { ("$id:$_->[0]" => $_->[3]) } @made }, 'with their sizes');
    is(names($class->list_images($id, $scfg, 101)), "$id:vm-101-disk-0", 'of a guest');
    is(names($class->list_images($id, $scfg, 102)), '', 'of a guest that has none');
    is(
        names($class->list_images($id, $scfg, 100, ["$id:vm-101-disk-0", "$id:vm-101-disk-9", 'local:vm-100-disk-0'])),
        "$id:vm-101-disk-0", 'by name, whatever the guest',
    );
    no warnings 'once';
    local *PVE::Cluster::get_vmlist = sub { return { ids => { 100 => { type => 'qemu' }, 101 => { type => 'lxc' } } } };
    is(names($class->list_volumes($id, $scfg, undef, ['rootdir'])), "$id:vm-101-disk-0", 'by content');
};

my $disk = 'vm-100-disk-0';

subtest 'attachment' => sub {
    my $path = $class->path($scfg, $disk, $id);
    is($path, "/dev/sanbridge/$id/$disk", 'path in scalar context');
    is_deeply([$class->path($scfg, $disk, $id)], [$path, 100, 'images'], 'path in list context');
    is_deeply($class->qemu_blockdev_options($scfg, $id, $disk, '10.0', {}), { driver => 'host_device', filename => $path }, 'for QEMU');
    on($one);
    is($class->activate_volume($id, $scfg, $disk, undef, {}, { 'guest-is-windows' => 0 }), 1, 'attached');
    is($class->activate_volume($id, $scfg, $disk), 1, 'once more');
    place('attached');
    on($two);
    is($class->activate_volume($id, $scfg, $disk, undef, {}, { 'plugin-may-deactivate-volume' => 1 }), 1, 'on the target');
    place('migrating');
    on($one);
    is($class->deactivate_volume($id, $scfg, $disk), 1, 'off the source');
    place('migrated');
    refused('in use elsewhere', qr/node2/, sub { $class->free_image($id, $scfg, $disk, 0) });
    place('stopped');
    on($two);
    is($class->deactivate_volume($id, $scfg, $disk), 1, 'detached');
    is($class->deactivate_volume($id, $scfg, $disk), 1, 'once more');
    refused('a snapshot that is not there', qr/no such snapshot/, sub { $class->activate_volume($id, $scfg, $disk, 'before') });
    refused('a volume that is not there', qr/vm-100-disk-9/, sub { $class->activate_volume($id, $scfg, 'vm-100-disk-9') });
    place('detached');
};

subtest 'growth' => sub {
    on($one);
    $class->activate_volume($id, $scfg, $disk);
    place('growing');
    is($class->volume_resize($scfg, $id, $disk, 16 * $MIB, 1), undef, 'online');
    is(scalar($class->volume_size_info($scfg, $id, $disk)), 16 * $MIB, 'it has grown');
    refused('shrinking', qr/vm-100-disk-0/, sub { $class->volume_resize($scfg, $id, $disk, 8 * $MIB, 1) });
    is($class->volume_resize($scfg, $id, 'vm-100-disk-1', 540673, 0), undef, 'offline, to an odd size');
    is(scalar($class->volume_size_info($scfg, $id, 'vm-100-disk-1')), 532 * $KIB, 'up to the next 4 KiB');
    place('grown');
};

subtest 'snapshots' => sub {
    on($one);
    is($class->volume_snapshot($scfg, $id, $disk, 'before'), undef, 'taken');
    refused('taken twice', qr/before/, sub { $class->volume_snapshot($scfg, $id, $disk, 'before') });
    place('snapshotted');
    no warnings 'once';
    local *PVE::Cluster::get_vmlist = sub { return { ids => { 100 => { type => 'lxc' } } } };
    my $backup = sub { return $class->volume_snapshot_info($scfg, $id, $disk)->{vzdump}->{id} };
    is($class->volume_snapshot($scfg, $id, $disk, 'vzdump'), undef, 'of a backup');
    my $left = $backup->();
    $class->activate_volume($id, $scfg, $disk, 'vzdump');
    is($class->volume_snapshot($scfg, $id, $disk, 'vzdump'), undef, 'of the next, where that one was killed');
    isnt($backup->(), $left, 'it is a new one');
    for my $time ('read', 'once more') {
        is($class->activate_volume($id, $scfg, $disk, 'before'), 1, $time);
    }
    for my $time ('closed', 'once more') {
        is($class->deactivate_volume($id, $scfg, $disk, 'before'), 1, $time);
    }
    my $info = $class->volume_snapshot_info($scfg, $id, $disk);
    is_deeply([sort keys $info->%*], ['before', 'vzdump'], 'both are known');
    ok($info->{before}->{id} ne $info->{vzdump}->{id}, 'by their own ids');
    ok($info->{before}->{timestamp} > 0, 'with their times');
    $class->deactivate_volume($id, $scfg, $disk);
    my $blockers = [];
    is($class->volume_rollback_is_possible($scfg, $id, $disk, 'before', $blockers), 1, 'newer snapshots do not block');
    is_deeply($blockers, [], 'and are not named');
    refused('to nothing', qr/nothing/, sub { $class->volume_rollback_is_possible($scfg, $id, $disk, 'nothing', $blockers) });
    is($class->volume_snapshot_rollback($scfg, $id, $disk, 'before'), undef, 'rolled back');
    is_deeply([sort keys $class->volume_snapshot_info($scfg, $id, $disk)->%*], ['before', 'vzdump'], 'no snapshot is lost');
    $class->activate_volume($id, $scfg, $disk);
    place('rolled back');
    is($class->volume_snapshot_delete($scfg, $id, $disk, 'before', 1), undef, 'deleted under a running guest');
    is($class->volume_snapshot_delete($scfg, $id, $disk, 'before', 1), undef, 'once more');
    is($class->activate_volume($id, $scfg, $disk, 'vzdump'), 1, 'as a backup reads it, without an end');
    is($class->volume_snapshot_delete($scfg, $id, $disk, 'vzdump'), undef, 'the other, and what reads it');
    is_deeply($class->volume_snapshot_info($scfg, $id, $disk), {}, 'none is left');
    $class->deactivate_volume($id, $scfg, $disk);
};

subtest 'templates and clones' => sub {
    my ($source, $base, $clone) = ('vm-101-disk-0', 'base-101-disk-0', 'base-101-disk-0/vm-102-disk-0');
    on($one);
    is($class->create_base($id, $scfg, $source), $base, 'a template');
    refused('its old name', qr/vm-101-disk-0/, sub { $class->activate_volume($id, $scfg, $source) });
    on($two);
    is($class->clone_image($scfg, $id, $base, 102), $clone, 'a linked clone');
    is(names($class->list_images($id, $scfg, 102)), "$id:$clone", 'listed with its template');
    is(names($class->list_images($id, $scfg, 101)), "$id:$base", 'and the template by itself');
    is(scalar($class->volume_size_info($scfg, $id, $clone)), 980 * $KIB, 'as large as it');
    is($class->path($scfg, $clone, $id), "/dev/sanbridge/$id/vm-102-disk-0", 'its path');
    is($class->activate_volume($id, $scfg, $clone), 1, 'attached');
    for my $other ('base-999-disk-0/vm-102-disk-0', 'vm-102-disk-0') {
        refused("as $other", qr/is a clone of base-101-disk-0/, sub { $class->free_image($id, $scfg, $other, 0) });
    }
    refused('as a clone', qr/is no clone/, sub { $class->free_image($id, $scfg, 'base-101-disk-0/vm-100-disk-0', 0) });
    refused('the template in the meantime', qr/vm_102_disk_0/, sub { $class->free_image($id, $scfg, $base, 1) });
    is($class->deactivate_volume($id, $scfg, $clone), 1, 'detached');
    my $given = $class->rename_volume($scfg, $id, $clone, 103);
    is($given, "$id:base-101-disk-0/vm-103-disk-0", 'given to another guest');
    is($class->free_image($id, $scfg, 'base-101-disk-0/vm-103-disk-0', 0), undef, 'deleted');
    my @warnings;
    {
        local $SIG{__WARN__} = sub { push @warnings, @_ };
        is($class->free_image($id, $scfg, $base, 1), undef, 'and the template, as far as anybody sees');
    }
    like("@warnings", qr/\Asanbridge: [ -~]*clones that were deleted[ -~]*\n\z/, 'the task log says what it waits for');
    is(names($class->list_images($id, $scfg, 101)), '', 'nobody sees it');
    place('clones gone');
};

subtest 'features' => sub {
    for my $feature (qw(snapshot copy sparseinit template rename)) {
        is($class->volume_has_feature($scfg, $feature, $id, $disk, undef, 1), 1, $feature);
    }
    for my $feature (qw(clone replicate)) {
        is($class->volume_has_feature($scfg, $feature, $id, $disk), undef, "no $feature");
    }
    is($class->storage_can_replicate($scfg, $id, 'raw'), 0, 'no replication');
};

subtest 'the array is down' => sub {
    on($one);
    $class->activate_volume($id, $scfg, $disk);
    place('array down');
    is($class->check_connection($id, $scfg), 1, 'still online: its disks work');
    is($class->activate_storage($id, $scfg, {}), 1, 'still active');
    ok(($class->status($id, $scfg, {}))[0] > 0, 'its room is remembered');
    is($class->activate_volume($id, $scfg, $disk), 1, 'an attached disk is there');
    my @warnings;
    {
        local $SIG{__WARN__} = sub { push @warnings, @_ };
        is($class->deactivate_volume($id, $scfg, $disk), 1, 'a guest stops');
    }
    like("@warnings", qr/\Asanbridge: [ -~]*mapping[ -~]*\n\z/, 'and the task log says what the array still owes');
    is($class->activate_volume($id, $scfg, $disk), 1, 'a guest starts again');
    refused('a new disk', qr/./, sub { $class->alloc_image($id, $scfg, 100, 'raw', undef, 1024) });
    refused('a list', qr/./, sub { $class->list_images($id, $scfg) });
    place('array up');
    $class->deactivate_volume($id, $scfg, $disk);
};

subtest 'the daemon dies' => sub {
    on($one);
    place('daemon killed');
    refused('nobody listens', qr/systemctl start sanbridge/, sub { $class->activate_volume($id, $scfg, $disk) });
    place('daemon started');
    is($class->activate_volume($id, $scfg, $disk), 1, 'the next one serves');
    $class->deactivate_volume($id, $scfg, $disk);
};

subtest 'the end' => sub {
    on($two);
    for my $case (@made) {
        my $rest = $class->cluster_lock_storage($id, 1, undef, sub { return $class->free_image($id, $scfg, $case->[0], 0, 'raw') });
        $rest->() if $rest;
        is(names($class->list_images($id, $scfg, undef, ["$id:$case->[0]"])), '', "$case->[0] freed");
    }
    is($class->free_image($id, $scfg, $disk, 0), undef, 'freeing what is gone is fine');
    is($class->on_delete_hook($id, $scfg), undef, 'removed');
    on($one);
    is($class->on_delete_hook($id, $scfg), undef, 'once more, on the other node');
    place('removed');
};

done_testing();
