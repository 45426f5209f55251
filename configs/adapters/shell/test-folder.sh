# The folder in which the commands of test.jsonl are run; it shares no file with folder.sh.
mkdir -p server/archive reports/2022 scans scripts/tools letters cache/old inbox
printf '%s\n' 'login anna ok' 'login karl failed' 'logout anna ok' 'login karl failed' 'upload mei ok' > server/events.log
printf '%s\n' 'GET /a 120' 'GET /b 45' 'PUT /a 310' 'GET /c 8' > server/latency.txt
printf '%s\n' 'login zoe failed' > server/archive/events.1.log
printf 'city\tstaff\nOslo\t14\nRome\t9\nLima\t21\n' > reports/offices.tsv
printf '%s\n' 'item;stock;cost' 'bolt;400;0.10' 'nut;120;0.05' 'gear;7;12.50' > reports/parts.txt
printf '%s\n' 'old' > reports/2022/summary.txt
: > reports/2022/draft.txt
for name in 'page 1.tiff' 'page 2.tiff' 'cover.TIFF' 'index.pdf'; do printf 'x' > "scans/$name"; done
printf '%s\n' '#!/bin/sh' '# FIXME quote the name' 'echo "$1"' > scripts/greet.sh
printf '%s\n' '#!/bin/sh' 'exit 0' > scripts/tools/noop.sh
printf '%s\n' 'Dear Sam,' '' 'The rain is late.' 'The crops wait.' '' 'Yours, Kim' > letters/sam.txt
printf '%s\n' 'Hello,' 'no rain here' > letters/open.txt
printf '%s\n' 'c' > cache/one.cache
printf '%s\n' 'c' > cache/old/two.cache
printf '%s\n' 'level=3' 'name=kiki' '; comment' 'limit=40' > options.conf
printf '%s\n' 'cod' 'eel' 'cod' 'bass' 'eel' 'cod' > fish.txt
printf '%s\n' 5 19 3 42 8 > scores.txt
printf '%s\n' 'kai@sea.org' 'lou@hill.net' 'max@sea.org' > mails.txt
chmod 755 scripts/tools/noop.sh
chmod 644 scripts/greet.sh
