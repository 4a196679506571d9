# Bakes where nothing is as usual; reproduce_test.go calls it, as root in namespaces of its own. It makes a root like a plain
# container's in memory, gives up all rights, and says as NAME=VALUE where it is.
#
# BIN: folder with slipway, clock and checkout.tar; CACHE, OUT: as for a bake; GO, MODULES: Go's root and its module cache;
# WHERE: an empty folder; CPU: the one to use. With the word "plain" it stays in this root: what an ordinary user can do.

bake='
umask 0077
export LD_PRELOAD=$FAKETIME_LIBRARY FAKETIME=+3653d DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1
echo c-year=$(date +%Y)
echo go-year=$($BIN/clock 2>&1)
echo uid=$(id -u)
echo umask=$(umask)
echo cpus=$(nproc)
echo no-new-privs=$(sed -n "s/^NoNewPrivs:[[:space:]]*//p" /proc/self/status)
echo capabilities=$(sed -n "s/^CapEff:[[:space:]]*//p" /proc/self/status)
echo bounding=$(sed -n "s/^CapBnd:[[:space:]]*//p" /proc/self/status)
echo devices=$(ls /dev)
echo etc=$(ls /etc)
echo network=$(sed -n "s/^ *\([a-z0-9]*\):.*/\1/p" /proc/net/dev)
echo host=$(uname -n)
echo folder=$PWD
echo order=$(ls -U images/components)
exec $BIN/slipway bake --role worker --format $FORMATS --out $OUT --cache $CACHE
'
library=$(find /usr/lib -name libfaketime.so.1 | head -1)
test -n "$library" || { echo "libfaketime is wanted (make deps)" >&2; exit 1; }
echo "real-year=$(date +%Y)"

# without_rights ROOT PREFIX RIGHTS...: the bake in a root directory, with little environment; PREFIX/else is the checkout.
without_rights() {
	root=$1 at=$2
	shift 2
	set -- /usr/bin/setpriv --no-new-privs "$@" /usr/bin/env -i \
		PATH="$GO/bin:/usr/bin:/bin" HOME="$at/home" TMPDIR="$at/tmp" GOCACHE="$at/home/go" BIN="$BIN" CACHE="$CACHE" OUT="$OUT" GOMODCACHE="$MODULES" \
		GOPROXY=off FORMATS="$FORMATS" FAKETIME_LIBRARY="$library" SLIPWAY_MIRROR=http://127.0.0.1:1/ \
		TZ=Asia/Kathmandu LANG=tr_TR.UTF-8 LC_ALL=tr_TR.UTF-8 LANGUAGE=tr SOURCE_DATE_EPOCH=1 GOMAXPROCS=1 \
		/bin/sh -euc "cd '$at/else'; $bake"
	if test "$root" != /; then set -- chroot "$root" "$@"; fi
	exec taskset -c "$CPU" "$@"
}

if test "${1-}" = plain; then
	mkdir -p "$WHERE/else" "$WHERE/home" "$WHERE/tmp"
	tar -x -C "$WHERE/else" -f "$BIN/checkout.tar"
	without_rights / "$WHERE"
fi

hostname elsewhere
chmod 755 "$BIN" "$BIN/slipway" "$BIN/clock" "$OUT"
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=2g tmpfs "$WHERE"
cd "$WHERE"
mkdir -p usr etc proc dev bin lib somewhere/else somewhere/home somewhere/tmp b c o m
for link in bin sbin lib lib64; do
	if test -L /$link; then rmdir $link 2>/dev/null || true; cp -a /$link $link; fi
done
mount --rbind -o ro /usr usr
case $GO in
	/usr/*) ;;
	*) mkdir -p ".$GO"; mount --bind -o ro "$GO" ".$GO" ;;
esac
mount -t proc proc proc
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mount --bind -o ro "$BIN" b
mount --bind "$CACHE" c
mount --bind "$OUT" o
mount --bind -o ro "$MODULES" m
tar -x -C somewhere/else -f "$BIN/checkout.tar"
find c -type d -exec chown 65534:65534 {} +
chown -R 65534:65534 o somewhere
BIN=/b CACHE=/c OUT=/o MODULES=/m
without_rights "$WHERE" /somewhere --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all --ambient-caps=-all
