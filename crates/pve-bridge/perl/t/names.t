# Volume names, snapshot names and paths: pure string work.

use strict;
use warnings;
use utf8;

BEGIN {
    my ($dir) = __FILE__ =~ m{\A(.*?)[^/]*\z}s;
    unshift @INC, "${dir}lib", "${dir}..";
}

use Test::More;

use PVE::Storage::Plugin ();
use PVE::Storage::Custom::SanbridgePlugin ();
my $class = 'PVE::Storage::Custom::SanbridgePlugin';

my $longest = 'x' x 180;

subtest 'names PVE makes, and users may' => sub {
    my @vm = (
        qw(vm-100-disk-0 vm-100-disk-12345 vm-999999999-disk-0 vm-100-cloudinit vm-100-state-snap1 vm-100-fleece-0),
        'vm-100-state-suspend-2026-11-20', 'vm-100-state-' . 'S' x 40, 'vm-100-a_b.c-D', "vm-100-$longest",
        'vm-100--x', 'vm-100-disk-0.raw',
    );
    for my $name (@vm) {
        my ($vmid) = $name =~ m/\Avm-(\d+)/;
        is_deeply([$class->parse_volname($name)], ['images', $name, $vmid, undef, undef, undef, 'raw'], $name);
    }
    is_deeply(
        [$class->parse_volname('base-100-disk-0')],
        ['images', 'base-100-disk-0', 100, undef, undef, 1, 'raw'],
        'a base',
    );
    is_deeply(
        [$class->parse_volname('base-100-disk-0/vm-101-disk-3')],
        ['images', 'vm-101-disk-3', 101, 'base-100-disk-0', 100, undef, 'raw'],
        'a linked clone',
    );
    is_deeply(
        [$class->parse_volname('base-100-disk-0/base-101-disk-3')],
        ['images', 'base-101-disk-3', 101, 'base-100-disk-0', 100, 1, 'raw'],
        'a template that was a linked clone',
    );
};

subtest 'anything else dies, in one printable line' => sub {
    my @bad = (
        undef, '', 'vm', 'vm-', 'vm-100', 'vm-100-', 'vm-99-disk-0', 'vm-0100-disk-0', 'vm-1000000000-disk-0',
        'vm-x-disk-0', 'subvol-100-disk-0', 'base-100', "vm-100-disk-0\n", "\nvm-100-disk-0", "vm-100-disk-0\nx",
        'vm-100-disk 0', 'vm-100-../../etc/passwd', '../vm-100-disk-0', 'vm-100-disk-0/..', 'vm-100-..', 'vm-100-.x',
        'vm-100-disk-0@snap', 'vm-100-a/b', '/vm-100-disk-0', 'base-100-disk-0/',
        'vm-100-disk-0/vm-101-disk-0', 'base-100-x/base-100-y/vm-100-z', "base-100-disk-0\n/vm-101-disk-0",
        'vm-100-dïsk', "vm-\x{0661}00-disk-0", "vm-10\x{0660}-disk-0", "vm-100-disk-\x{2028}", "vm-100-a\0b", 'vm-100-$(id)',
        'vm-100-a;b', "vm-100-${longest}x", 'iso/debian.iso', '100/vm-100-disk-0.raw', 'VM-100-disk-0', ' vm-100-disk-0',
    );
    for my $name (@bad) {
        my $shown = defined($name) ? $name =~ s/[^ -~]/?/gr : 'undef';
        my @got = eval { $class->parse_volname($name) };
        like($@, qr/\A[ -~]+ is no volume name of a sanbridge storage\n\z/, "refused: $shown");
        is(scalar(@got), 0, 'nothing returned');
    }
};

subtest 'path' => sub {
    my $path = '/dev/sanbridge/store1/vm-100-disk-0';
    is_deeply([$class->path({}, 'vm-100-disk-0', 'store1')], [$path, 100, 'images'], 'list context');
    is(scalar($class->path({}, 'vm-100-disk-0', 'store1')), $path, 'scalar context');
    my ($first) = $class->path({}, 'vm-100-disk-0', 'store1', undef);
    is($first, $path, 'first of the list');
    is(scalar($class->path({}, 'vm-100-disk-0', 'store1', 'snap_1-x')), "$path\@snap_1-x", 'of a snapshot');
    is(scalar($class->path({}, 'vm-100-disk-0', 'store1', '')), $path, 'an empty snapshot name is none');
    is(
        scalar($class->path({}, 'base-100-disk-0/vm-101-disk-0', 'a.b_c-1')),
        '/dev/sanbridge/a.b_c-1/vm-101-disk-0',
        'of a linked clone',
    );
    for my $bad (undef, '', 'a', '../x', "store1\n", 'a/b', 'störe', '1abc', '.a') {
        ok(!eval { $class->path({}, 'vm-100-disk-0', $bad); 1 }, 'bad storage id refused');
    }
    for my $bad ('1x', 'x', "snap\n", '../x', 'a b', 'a@b', 'snäp', 'a' x 65) {
        ok(!eval { $class->path({}, 'vm-100-disk-0', 'store1', $bad); 1 }, 'bad snapshot name refused');
        like($@, qr/\A[ -~]+\n\z/, 'in one printable line');
    }
    ok(!$INC{'PVE/Storage/Sanbridge/Client.pm'}, 'nobody was asked');
};

subtest 'methods that are names only' => sub {
    is_deeply(
        $class->qemu_blockdev_options({}, 'store1', 'vm-100-disk-0', '10.0+pve1', {}),
        { driver => 'host_device', filename => '/dev/sanbridge/store1/vm-100-disk-0' },
        'qemu_blockdev_options',
    );
    is_deeply(
        $class->qemu_blockdev_options({}, 'store1', 'vm-100-disk-0', 'pc-i440fx-10.0', { 'snapshot-name' => 's1' }),
        { driver => 'host_device', filename => '/dev/sanbridge/store1/vm-100-disk-0@s1' },
        'of a snapshot',
    );
    ok(!eval { $class->filesystem_path({}, 'vm-100-disk-0'); 1 }, 'filesystem_path dies');
    ok(!eval { $class->get_subdir({}, 'images'); 1 }, 'get_subdir dies');
};

done_testing();
