# Functions by which an instance fetches the packages and secrets of its services, with the
# permissions of its instance profile. $region and $domain are set above. They need curl.
store=/var/lib/defx/store
hash() { sha256sum | cut -c1-64; }

# bytes N HEX MASK prints N bytes as escapes for printf: those of HEX, padded with zeros, each
# xor MASK.
bytes() (
	n=$1 h=$2
	while [ "$n" -gt 0 ]; do
		rest=${h#??}
		printf '\\%03o' $((0x0${h%"$rest"} ^ $3))
		h=$rest n=$((n - 1))
	done
)

# hmac KEY TEXT prints the HMAC-SHA256 in hex; KEY has at most 64 bytes. The key is never an
# argument of another program, because every user can read the arguments of a process.
hmac() {
	inner=$({ printf "$(bytes 64 "$1" 54)"; printf %s "$2"; } | hash)
	{ printf "$(bytes 64 "$1" 92)"; printf "$(bytes 32 "$inner" 0)"; } | hash
}
meta() { curl -sSf -m 10 -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/meta-data/iam/security-credentials/$1"; }
field() { printf %s "$who" | tr -d '\n' | sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; }

# ask SERVICE PATH [TARGET BODY] sends a request with an AWS signature version 4 and writes the
# answer to the file $answer.
ask() {
	token=$(curl -sSf -m 10 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' http://169.254.169.254/latest/api/token) || return 1
	role=$(meta '') || return 1
	who=$(meta "$role") || return 1
	session=$(field Token)
	now=$(date -u +%Y%m%dT%H%M%SZ)
	day=${now%T*}
	host=$1.$region.$domain
	body=$(printf %s "${4-}" | hash)
	signed="${3:+content-type;}host;x-amz-content-sha256;x-amz-date;x-amz-security-token${3:+;x-amz-target}"
	method=GET
	[ -z "${3-}" ] || method=POST
	canonical="$method
$2

${3:+content-type:application/x-amz-json-1.1
}host:$host
x-amz-content-sha256:$body
x-amz-date:$now
x-amz-security-token:$session
${3:+x-amz-target:$3
}
$signed
$body"
	scope=$day/$region/$1/aws4_request
	k=$(printf %s "AWS4$(field SecretAccessKey)" | od -An -v -tx1 | tr -d ' \n')
	for part in "$day" "$region" "$1" aws4_request; do k=$(hmac "$k" "$part"); done
	signature=$(hmac "$k" "AWS4-HMAC-SHA256
$now
$scope
$(printf %s "$canonical" | hash)")
	code=$(curl -sS -m 900 -o "$answer" -w '%{http_code}' ${3:+--data-binary "$4" -H "content-type: application/x-amz-json-1.1" -H "x-amz-target: $3"} -K - "https://$host$2" <<EOF
header = "x-amz-content-sha256: $body"
header = "x-amz-date: $now"
header = "x-amz-security-token: $session"
header = "Authorization: AWS4-HMAC-SHA256 Credential=$(field AccessKeyId)/$scope, SignedHeaders=$signed, Signature=$signature"
EOF
	) || return 1
	[ "$code" = 200 ] || {
		echo "defx: $host says $code: $(head -c 300 "$answer")" >&2
		return 1
	}
}

# patiently CMD repeats a command until it succeeds, for at most five minutes: permissions may
# take effect later than the instance starts.
patiently() {
	n=0
	until "$@"; do
		n=$((n + 1))
		[ $n -lt 60 ] || {
			echo "defx: given up after 60 tries" >&2
			exit 1
		}
		sleep 5
	done
}

# tree prints the digest of the current folder, computed as defx does.
tree() {
	{
		printf 'defx tree/2\n['
		find . -mindepth 1 \( -type d -printf '%P/\n' -o -printf '%P\n' \) | LC_ALL=C sort | {
			sep=
			while IFS= read -r n; do
				e=$n l= x=
				[ ! -L "$n" ] || l=$(readlink -- "$n")
				case $e$l in *[\"\\]*)
					e=$(printf %s "$e" | sed 's/["\\]/\\&/g')
					l=$(printf %s "$l" | sed 's/["\\]/\\&/g')
					;;
				esac
				if [ -L "$n" ]; then
					printf '%s{"link":"%s","name":"%s"}' "$sep" "$l" "$e"
				elif [ -d "$n" ]; then
					printf '%s{"name":"%s"}' "$sep" "$e"
				else
					[ ! -x "$n" ] || x='"exec":true,'
					printf '%s{%s"name":"%s","sum":"%s"}' "$sep" "$x" "$e" "$(hash <"$n")"
				fi
				sep=,
			done
		}
		printf ']'
	} | hash
}

# is PATH DIGEST WANTED ends the script unless the digests are equal.
is() {
	[ "$2" = "$3" ] || {
		echo "defx: $1 has digest $2, not $3" >&2
		exit 1
	}
}

# package PATH KIND DIGEST puts an artifact into the store, after checking its digest.
package() {
	[ ! -e "$store/$3" ] || return 0
	answer=$store/$3.arrived
	rm -rf "$store/$3.unpacked"
	mkdir -p "$store" "$store/$3.unpacked"
	patiently ask s3 "$1"
	[ "$2" != tar ] || is "$1" "$(hash <"$answer")" "$3" # of a folder only the content is known
	tar -xf "$answer" -C "$store/$3.unpacked" --no-same-owner
	cd "$store/$3.unpacked"
	find . -type d -exec chmod 0755 {} +
	find . -type f -perm /111 -exec chmod 0555 {} +
	find . -type f ! -perm /111 -exec chmod 0444 {} +
	[ "$2" = tar ] || is "$1" "$(tree)" "$3"
	cd /
	mv "$store/$3.unpacked" "$store/$3"
	rm "$answer"
}

# text KEY prints the string at a key of the JSON object on standard input.
text() {
	LC_ALL=C awk -v key="$1" '
function byte(n) { printf "%c", n }
function hex(h,  i, n) { for (i = 1; i <= 4; i++) n = n * 16 + index("0123456789abcdef", substr(h, i, 1)) - 1; return n }
{ s = s $0 }
END {
	if (!match(s, "\"" key "\" *: *\"")) exit 1
	for (i = RSTART + RLENGTH; i <= length(s); i++) {
		c = substr(s, i, 1)
		if (c == "\"") exit 0
		if (c != "\\") { printf "%s", c; continue }
		c = substr(s, ++i, 1)
		if (c != "u") { p = index("bfnrt", c); printf "%s", p ? substr("\b\f\n\r\t", p, 1) : c; continue }
		n = hex(tolower(substr(s, i + 1, 4))); i += 4
		if (n >= 55296 && n < 56320) { n = 65536 + (n - 55296) * 1024 + hex(tolower(substr(s, i + 3, 4))) - 56320; i += 6 }
		if (n == 0) exit 1
		if (n < 128) { byte(n); continue }
		if (n < 2048) byte(192 + int(n / 64))
		else {
			if (n < 65536) byte(224 + int(n / 4096))
			else { byte(240 + int(n / 262144)); byte(128 + int(n / 4096) % 64) }
			byte(128 + int(n / 64) % 64)
		}
		byte(128 + n % 64)
	}
	exit 1
}'
}

# secret SERVICE NAME FILE writes a secret to a file that only root can read.
secret() (
	umask 077
	mkdir -p "$(dirname "$3")"
	answer=$3.arrived
	case $1 in
	ssm) patiently ask ssm / AmazonSSM.GetParameter "{\"Name\":\"$2\",\"WithDecryption\":true}" && text Value <"$answer" >"$3" ;;
	*) patiently ask "$1" / "$1.GetSecretValue" "{\"SecretId\":\"$2\"}" && text SecretString <"$answer" >"$3" ;;
	esac || {
		rm -f "$3"
		echo "defx: secret $2 is no text" >&2
		exit 1
	}
	chmod 0400 "$3"
	rm "$answer"
)
