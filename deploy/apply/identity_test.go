package apply

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
)

// TestIdentity_InstanceIDBeatsAddress: an instance ID identifies a machine for
// certain, an address does not.
func TestIdentity_InstanceIDBeatsAddress(t *testing.T) {
	const id = "i-0123456789abcdef0"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == "PUT" && r.URL.Path == "/latest/api/token":
			io.WriteString(w, "secret")
		case r.URL.Path == "/latest/meta-data/instance-id" && r.Header.Get("X-aws-ec2-metadata-token") == "secret":
			io.WriteString(w, id)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.URL)
	if self := detectIdentity(t.Context()); self.instance != id {
		t.Fatalf("instance %q", self.instance)
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	self := detectIdentity(t.Context())
	if self.instance != "" {
		t.Skip("this machine is an instance")
	}
	if self.addresses["127.0.0.1"] {
		t.Error("127.0.0.1 identifies no machine")
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if n := a.(*net.IPNet); !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			if how, certain := self.matches(&graph.Machine{Address: n.IP.String()}, "i-0123456789abcdef1"); how == "" || certain {
				t.Errorf("%s: %q, certain %v", n.IP, how, certain)
			}
		}
	}
	if how, _ := self.matches(&graph.Machine{Address: "192.0.2.1"}, id); how != "" {
		t.Error(how)
	}
	self.instance, self.addresses["192.0.2.1"] = id, true
	if how, _ := self.matches(&graph.Machine{Address: "192.0.2.1"}, "i-0123456789abcdef1"); how != "" {
		t.Errorf("another instance with the same address: %s", how)
	}
	if how, certain := self.matches(&graph.Machine{}, id); how == "" || !certain {
		t.Error("the same instance does not match")
	}
}
