package PVE::Storage::Sanbridge::Stream;

# Volumes as streams in PVE's format `raw+size`: the size in eight bytes, little end first, then so many bytes. Copied
# here, without another program.

use strict;
use warnings;

use Errno ();
use Fcntl qw(O_RDONLY O_WRONLY SEEK_END SEEK_SET);
use IO::Handle ();

# Read in pieces of 4 MiB; written where a piece of 64 KiB is not all zeroes.
use constant {
    CHUNK => 4 * 1024 * 1024,
    BLOCK => 64 * 1024,
};

# Exactly so many bytes; fewer only at the end of the stream.
my $read_full = sub {
    my ($fh, $length) = @_;
    my $data = '';
    while (length($data) < $length) {
        my $got = sysread($fh, $data, $length - length($data), length($data));
        next if !defined($got) && $!{EINTR};
        die "cannot read: $!\n" if !defined($got);
        last if $got == 0;
    }
    return $data;
};

my $write_full = sub {
    my ($fh, $data) = @_;
    my $at = 0;
    while ($at < length($data)) {
        my $put = syswrite($fh, $data, length($data) - $at, $at);
        next if !defined($put) && $!{EINTR};
        die "cannot write: $!\n" if !defined($put);
        $at += $put;
    }
};

# An attached volume, never a file that happens to be in its place.
sub is_device { return -b $_[0] }

my $open_device = sub {
    my ($path, $flags) = @_;
    sysopen(my $fh, $path, $flags) or die "cannot open '$path': $!\n";
    die "'$path' is no block device\n" if !is_device($fh);
    my $size = sysseek($fh, 0, SEEK_END) or die "cannot tell the size of '$path': $!\n";
    sysseek($fh, 0, SEEK_SET) or die "cannot rewind '$path': $!\n";
    return ($fh, $size + 0);
};

# The size a stream announces.
sub read_size {
    my ($in) = @_;
    my $header = $read_full->($in, 8);
    die "the stream has no size\n" if length($header) != 8;
    my $size = unpack('Q<', $header);
    die "the stream announces $size bytes\n" if $size == 0 || $size >= 2**53;
    return $size;
}

# The first `size` bytes of a device, with their number before them.
sub copy_out {
    my ($path, $out, $size) = @_;
    my ($in, $there) = $open_device->($path, O_RDONLY);
    die "'$path' has only $there of its $size bytes\n" if $there < $size;
    $write_full->($out, pack('Q<', $size));
    for (my $left = $size; $left > 0;) {
        my $data = $read_full->($in, $left < CHUNK ? $left : CHUNK);
        die "'$path' ends $left bytes too early\n" if $data eq '';
        $write_full->($out, $data);
        $left -= length($data);
    }
    close($in);
}

# What follows the size, onto a device that reads as zeroes: blocks of zeroes are not written, and stay free on the array.
sub copy_in {
    my ($in, $path, $size) = @_;
    my ($out, $there) = $open_device->($path, O_WRONLY);
    die "'$path' has only $there of the $size bytes of the stream\n" if $there < $size;
    my $zeroes = "\0" x BLOCK;
    for (my $at = 0; $at < $size;) {
        my $data = $read_full->($in, $size - $at < BLOCK ? $size - $at : BLOCK);
        die "the stream ends after $at of $size bytes\n" if $data eq '';
        if ($data ne $zeroes) {
            sysseek($out, $at, SEEK_SET) // die "cannot seek in '$path': $!\n";
            $write_full->($out, $data);
        }
        $at += length($data);
    }
    die "the stream is longer than the $size bytes it announces\n" if $read_full->($in, 1) ne '';
    $out->sync or die "cannot write '$path': $!\n";
    close($out) or die "cannot write '$path': $!\n";
}

1;
