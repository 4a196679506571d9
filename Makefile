# Slipway. `make run` shows it at work, `make test` proves it; both set up what they need.

CLUSTER  ?= lab
IMAGES   ?= images
OUT      ?= out
# RACK is what `make test-rack` rehearses: a shipped example or a file with three control planes or more.
RACK     ?= reference
FUZZTIME ?= 10m
# RUNS is how often `make test-faults` makes each fault.
RUNS     ?= 1
# ONCE=1 makes `make run` end when all checks are done, on a terminal too.
ONCE     ?=
# LOCK names another lock than the committed one.
LOCK     ?=

DEFINITION = --images $(IMAGES) $(if $(LOCK),--lock $(LOCK))

ROOT := $(shell test "$$(id -u)" = 0 || echo sudo)

# What the product and its tests need of a Debian 12 or 13 machine, besides Go.
PACKAGES := make gcc libc6-dev pkg-config libblkid-dev libseccomp-dev squashfs-tools \
	qemu-system-x86 qemu-utils ovmf iproute2 nftables kmod \
	git cryptsetup-bin dnsmasq-base atftp tftp-hpa busybox wget strace udhcpc isc-dhcp-client isc-dhcp-relay dhcpcd-base curl cpio gdisk dosfstools mtools xorriso genisoimage ipxe \
	gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm qemu-efi-aarch64 u-boot-qemu sbsigntool ipmitool openipmi \
	bmap-tools zstd mount keepalived xz-utils minisign chromium docker-registry libfaketime swtpm swtpm-tools

.PHONY: run build test test-media test-arm64 test-rack test-faults test-cosign test-images lint bench fuzz deps clean help

help: ## say what there is to make
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 14

run: deps build ## bake both roles and boot them to a Ready cluster in QEMU
	bin/slipway bake $(DEFINITION) --role control-plane,worker --out $(OUT)/images
	bin/slipway identity --cluster $(CLUSTER) --identity $(OUT)/identity-$(notdir $(CLUSTER)) --keep
	@$(ROOT) bin/slipway rack up --cluster $(CLUSTER) --images $(IMAGES) --artifacts $(OUT)/images \
		--identity $(OUT)/identity-$(notdir $(CLUSTER)) --logs $(OUT)/logs \
		--cache "$${SLIPWAY_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/slipway}" $(if $(ONCE),--once)

build: ## build slipway and slipway-agent into bin/
	CGO_ENABLED=0 go build -trimpath -tags grpcnotrace -o bin/ ./builder/slipway ./agent/slipway-agent

test: deps build lint test-images $(OUT)/test/sigstore-verify ## everything: unit, fuzz seeds, namespaces, the command line, and virtual machines
	SLIPWAY_SIGSTORE_VERIFY=$(abspath $(OUT))/test/sigstore-verify go test -timeout 20m $$(go list ./... | grep -v /test/e2e)
	@for m in $$(find images/components -name '*_test.go' -printf '%h\n' | cut -d/ -f1-3 | sort -u); do \
		echo "go test $$m"; (cd $$m && CGO_ENABLED=0 go test -trimpath -timeout 30m ./...) || exit 1; done
	SLIPWAY_TEST_OUT=$(abspath $(OUT))/test go test -count=1 -timeout 60m -v ./test/e2e
	SLIPWAY_ARTIFACTS=$(abspath $(OUT))/test/images SLIPWAY_TEST_FAULTS=Power go test -count=1 -timeout 15m -v ./test/faults
	SLIPWAY_ARTIFACTS=$(abspath $(OUT))/test/images go test -count=1 -run '^TestRealImages$$' ./builder/footprint
	SLIPWAY_ARTIFACTS=$(abspath $(OUT))/test/images go test -count=1 -timeout 30m -run '^TestMachine' ./agent/initramfs ./agent/network
	bin/slipway bake --images $(IMAGES) $$(test ! -f $(OUT)/test/lock.json || echo --lock $(OUT)/test/lock.json) \
		--role worker --format netboot,disk --out $(OUT)/test/media
	SLIPWAY_ARTIFACTS=$(abspath $(OUT))/test/media go test -count=1 -timeout 30m -run '^TestMachineBootsFromADisk$$' ./test/media

test-media: deps build ## every way to boot from media, in virtual machines
	@mkdir -p $(OUT)/test
	bin/slipway bake $(DEFINITION) --role control-plane,worker --out $(OUT)/test/media --format netboot,disk,disk.zst,disk-4k,iso
	SLIPWAY_ARTIFACTS=$(abspath $(OUT))/test/media go test -count=1 -timeout 120m -v -run '^TestMachine' ./test/media

# Emulated, one boot takes minutes: this is not part of `make test`.
test-arm64: deps test-images ## bake both roles for arm64, boot them in virtual machines, alone and as a worker of a control plane
	@mkdir -p $(OUT)/test
	bin/slipway bake $(DEFINITION) --arch arm64 --role control-plane,worker --out $(OUT)/test/arm64 --format netboot,disk
	bin/slipway bake $(DEFINITION) --role control-plane --out $(OUT)/test/arm64
	@$(ROOT) env SLIPWAY_ARTIFACTS=$(abspath $(OUT))/test/arm64 "$$(command -v go)" test -count=1 -timeout 150m -v -run '^TestArm64' ./test/media
	@$(ROOT) env SLIPWAY_ARTIFACTS=$(abspath $(OUT))/test/images SLIPWAY_ARM64=$(abspath $(OUT))/test/arm64 SLIPWAY_TEST_FAULTS='Arm64|Arm64ControlPlane' \
		"$$(command -v go)" test -count=1 -timeout 120m -v ./test/faults

test-rack: deps build ## the reference rack: five virtual machines to Ready, then control planes that lose their power
	bin/slipway bake $(DEFINITION) --role control-plane,worker --out $(OUT)/images
	bin/slipway identity --cluster $(RACK) --identity $(OUT)/identity-$(notdir $(RACK)) --keep
	@$(ROOT) bin/slipway rack up --cluster $(RACK) --images $(IMAGES) --artifacts $(OUT)/images --faults --once \
		--identity $(OUT)/identity-$(notdir $(RACK)) --logs $(OUT)/logs-$(notdir $(RACK)) \
		--cache "$${SLIPWAY_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/slipway}"

test-faults: deps test-images ## the reference cluster in namespaces: every fault that it must survive, RUNS times each
	@$(ROOT) env SLIPWAY_ARTIFACTS=$(abspath $(OUT))/test/images SLIPWAY_TEST_RUNS=$(RUNS) "$$(command -v go)" test -count=1 -timeout 120m -v ./test/faults

test-cosign: build ## what slipway sign writes, verified by cosign, which is built from source for that (some minutes)
	@mkdir -p $(OUT)/test
	cd test/cosign && CGO_ENABLED=0 go build -trimpath -o $(abspath $(OUT))/test/cosign github.com/sigstore/cosign/v2/cmd/cosign
	SLIPWAY_COSIGN=$(abspath $(OUT))/test/cosign go test -count=1 -v -run 'TestScripts/sigstore$$' ./test/cli

$(OUT)/test/sigstore-verify: test/cosign/verify/main.go test/cosign/go.mod test/cosign/go.sum
	@mkdir -p $(OUT)/test
	cd test/cosign && CGO_ENABLED=0 go build -trimpath -o $(abspath $(OUT))/test/sigstore-verify ./verify

# A mirror that moves on must not turn the tests red: they, and only they, lock again where a locked package is gone.
test-images: deps build
	@mkdir -p $(OUT)/test && rm -f $(OUT)/test/lock.json
	@bin/slipway bake $(DEFINITION) --role control-plane,worker --out $(OUT)/test/images; code=$$?; \
	if test $$code = 4; then \
		echo "the mirror has moved on: locking again into $(OUT)/test/lock.json, for these tests only"; \
		bin/slipway lock --images $(IMAGES) --lock $(OUT)/test/lock.json && \
		bin/slipway bake --images $(IMAGES) --lock $(OUT)/test/lock.json --role control-plane,worker --out $(OUT)/test/images; \
	else exit $$code; fi

lint: ## gofmt and go vet
	@bad=$$(gofmt -l agent builder images profiles test); test -z "$$bad" || { echo "gofmt: $$bad" >&2; exit 1; }
	go vet ./...

# PEERS are the servers that others are measured against. They are unpacked, not installed: installed, they'd be started. PostgreSQL,
# where it isn't installed, is unpacked with all that it needs and that isn't there: Kea can keep its leases in it.
PEERS := tftpd-hpa nginx
bench: PACKAGES += mkosi debootstrap systemd-container kea-dhcp4-server kea-admin libwrap0 libpcre2-8-0
bench: export PATH := $(abspath $(OUT))/peers/usr/sbin:$(PATH)
bench: deps build $(OUT)/peers ## print the figures of docs/figures.md (boots virtual machines)
	bash -o pipefail -c "go test -run '^$$' -bench . -benchtime 1s ./builder/... ./agent/... ./images/... | grep -E '^(Benchmark|ok|FAIL|panic|--- FAIL|    .*_test.go)'"
	go run ./test/figures

$(OUT)/peers:
	@mkdir -p $@.new && cd $@.new && \
	apt-get -q download $(PEERS) $$(apt-get -s install --no-install-recommends postgresql | sed -n 's/^Inst \([^ ]*\) (.*/\1/p') && \
	for p in *.deb; do dpkg-deb -x $$p . && rm $$p || exit 1; done
	@rm -rf $@ && mv $@.new $@

fuzz: ## run every fuzz target for FUZZTIME (10m)
	@grep -rln --include='*_test.go' --exclude-dir=components '^func Fuzz' agent builder images profiles | while read -r f; do \
		sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$f" | while read -r name; do \
			echo "$$(dirname "$$f") $$name"; \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$f")" || exit 1; \
		done || exit 1; \
	done

deps: ## install the Debian packages that are missing, and check Go
	@missing=; for p in $(PACKAGES); do \
		dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; done; \
	if test -n "$$missing"; then \
		command -v apt-get >/dev/null || { echo "missing packages:$$missing (this is no Debian: install them yourself)" >&2; exit 1; }; \
		echo "installing:$$missing"; \
		$(ROOT) env DEBIAN_FRONTEND=noninteractive apt-get -q update && \
		$(ROOT) env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $$missing || exit 1; fi
	@command -v go >/dev/null || { echo "Go is missing: install Go $$(sed -n 's/^go //p' go.mod) or newer and put it into PATH" >&2; exit 1; }
	@go version >/dev/null || { echo "this Go can't build Slipway: install Go $$(sed -n 's/^go //p' go.mod) or newer" >&2; exit 1; }

clean: ## remove what was built here (caches stay)
	rm -rf bin out
