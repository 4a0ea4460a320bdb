# `make demo` shows defx at work, and `make test` runs the tests. Both need Go and make alone.

BIN := bin/defx
export CGO_ENABLED ?= 0

.PHONY: demo test build lint check e2e e2e-ec2 torture bench fmt clean

build:
	go build -trimpath -o $(BIN) ./cmd/defx

# Deploys examples/quickstart into a folder-as-machine, edits one field, and applies again.
demo: build
	@./examples/demo.sh $(BIN)

test:
	go vet ./...
	go test -timeout 30m ./...

# End-to-end tests on booted machines. They need root and a Debian tree: see .ci/run. ONLY=REGEXP
# selects tests, as -run does.
e2e:
	DEFX_E2E=1 go test -count=1 -timeout 30m -parallel 3 -run '$(ONLY)' ./deploy/e2e

# End-to-end tests of resources: Terraform and the real provider against moto. .ci/run shows what
# they need.
e2e-ec2:
	go test -count=1 -timeout 40m -parallel 4 -run '$(ONLY)' ./deploy/e2e/ec2

# Static checks: staticcheck, unreachable functions, repeated code.
lint:
	go tool -modfile=tools/go.mod staticcheck ./...
	tools/deadcode.sh
	tools/duplicates.sh

# The tests, the static checks, and the tests with the race detector.
check: test lint
	GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 go test -race -timeout 30m ./...

# The property tests at full size: kills, edits, compared calls, and hours of fuzzing.
torture:
	DEFX_E2E=1 DEFX_TEST_KILLS_MACHINES=300 DEFX_TEST_KILLS_DOCKER=300 DEFX_TEST_CUTS=100 DEFX_TEST_STRINGS=1000000 go test -count=1 -timeout 60m -parallel 1 -v -run 'Killed|CutAfter|RandomStrings' ./deploy/e2e
	DEFX_E2E=1 DEFX_TEST_UNITS=300 go test -count=1 -timeout 60m -v -run Many ./deploy/e2e
	DEFX_E2E=1 DEFX_TEST_UNITS=300 DEFX_TEST_MACHINES=20 DEFX_TEST_PARALLEL=40 go test -count=1 -timeout 60m -v -run Many ./deploy/e2e
	DEFX_TEST_KILLS=1000 DEFX_TEST_STEPS=100000 DEFX_TEST_EDITS=20000 go test -count=1 -timeout 120m -v -run 'Killed|RandomEdits' ./deploy/project
	DEFX_TEST_SEED=$$(date +%s) DEFX_TEST_SEQUENCES=200000 DEFX_TEST_MUTANTS=1000 go test -count=1 -timeout 600m -v ./deploy/modeltest
	DEFX_TEST_CALLS=10000 go test -count=1 -timeout 240m -v ./lang/native
	DEFX_TEST_CACHE_EDITS=100000 go test -count=1 -timeout 240m -v -run Cache ./lang
	DEFX_TEST_INCREMENTAL=20000 go test -count=1 -timeout 240m -v -run IncrementalEqualsFull ./deploy/project
	DEFX_TEST_READINGS=10000 go test -count=1 -timeout 240m -v -run IndependentOfTextAndPlace ./deploy/project
	DEFX_TEST_SWAPS=10000 go test -count=1 -timeout 60m -v -run Swapped ./internal/nofollow ./deploy/agent
	DEFX_TEST_KILLS_EC2=100 go test -count=1 -timeout 120m -v -run 'Killed' ./deploy/e2e/ec2
	./tools/fuzz.sh 5m

# Measures generated workloads beside other evaluators (go-jsonnet's command is built; jsonnet and
# nix-instantiate are used if installed), then whole deployments.
bench: build
	go -C tools run ./bench -defx ../$(BIN)

fmt: build
	gofmt -l -w .
	$(BIN) fmt -C examples

clean:
	rm -rf bin
