"""The words of one-time codes: 1,024 (10 bits each), of 4 to 6 letters, told apart by their first four.

Common English words, chosen from those of BIP 39 (MIT licence), which were made to be read out and typed.
"""

from __future__ import annotations

_TEXT = """
able about above absorb absurd access acid across actor actual adapt admit adult advice afford afraid agent agree
ahead alarm album alert allow almost alpha also alter among amount amused angle animal annual answer apart apple
april arch area arena armed armor around artist aspect asset assume asthma attend audit august author auto autumn
awake aware awful axis bacon ball bamboo banana barely barrel basic basket beach beauty become beef begin behave
below belt bench better beyond bike bird birth blast bless blood blue blur blush boat body bone bonus book border
boring borrow bottom bounce brand brass brave breeze brick bridge bright bring broken bronze broom brush bubble
buddy build bulb bundle burger burst butter buyer buzz cable cactus cake call calm camp canal candy canvas canyon
card cargo carpet cart case cash castle casual cattle caught cause celery cement census chair chalk charge chase
chat check cheese chef chest chief choice choose chunk cigar circle city claim clap clay clean clerk click client
cliff clinic clip clog close cloth clown club clump coach coast coffee coil coin column come comic cook cool copy
coral core cost cotton couch course cousin coyote crack cradle cram crane crater crazy cream creek crew crisp crop
cross crouch cruise crunch cube curve custom cycle damp dance dash dawn debate debris decade deer define defy delay
demand denial deny depart depth deputy derive design desk detect device devote diary dice diesel differ dinner dish
divert divide doctor doll domain donkey donor dose double dove dragon drama draw dress drift drip drive drop duck
dune during duty eager early earn earth east easy echo edit effort either elbow elder else embark embody employ
empty enact energy engage enjoy enlist enough enroll ensure entire entry equal erase erode error escape essay ethics
evoke evolve excess excite excuse exist exit expand expect expire extend extra fabric fade faint fall false fame
famous fancy farm feel fence fever fiber field file film filter find fine finish fire firm fiscal fish flag flash
flat flee flight flip flock floor flower flush foam foil fold follow foot force forest fork forum foster found frame
friend fringe frog frost frown fruit fuel funny gadget gain galaxy garage garden gasp gate gather gaze genius genre
giant gift ginger give glad glare glass glide gloom glory glow glue goat good goose gospel govern gown grace grain
grant grass great green grit group grunt guard guess guitar habit hair hammer hand harbor hard harsh hawk hazard
head heart heavy hello helmet help hidden high hill hire hobby hold hole hollow honey hood hope horse host hour
hover huge humble humor hurdle hybrid icon idle ignore image impact impose inch index indoor inhale inject inner
insect inside intact invest invite island issue item jacket jaguar jazz jelly jewel joke judge juice jungle junior
junk keen keep kidney kind kiss kitten kiwi knee label labor lake lamp laptop later laugh lava layer lazy leaf learn
leave legal legend lemon length lens letter level life light like limb link lion list little live load loan local
logic long loud lounge love lucky lumber lunar luxury lyrics magnet maid mail major make mammal mango manual marble
march margin market mask mass match math matter maze meadow meat medal media melt member menu mercy merge merry mesh
metal middle milk mind minor minute miss mixed mobile modify moment month moon moral mother motion motor move movie
muffin mule muscle music must mutual myth naive napkin narrow nation near neck need nest never next nice night noise
noodle normal nose note novel number nurse oblige obtain occur odor offer often okay olive once onion online open
opera option orange orbit organ orient orphan outer output oven over owner oyster ozone pact page pair palm panda
panel parade parent park party pass path patrol pause peace peanut pear people pepper person phone photo piano
picnic piece pill pilot pipe pitch pizza planet plate play pledge pluck plunge poem poet polar pole police pony pool
potato powder power prefer pretty price print prize proof proud public pulp pulse pupil purity purse puzzle quick
quit quote rabbit race radar radio rain raise rally ranch random range rare rate raven ready real recall recipe
record reform refuse regret reject relax rely remain remind render renew reopen repair repeat rescue result retire
reveal review rhythm ribbon rice ride ridge right ring riot risk ritual rival road roast robot rocket roof room rose
rotate round route royal rule runway saddle safe sail salmon salon salt same sample sauce save scale scene scheme
school scrap screen scrub search season second secret seed select sell sense series settle seven shadow share shell
shield shine ship shiver shop short shrimp side sight silent silk silly simple since sing size skate skill skin
skirt sleep slice slide slim slogan slow slush small smile smoke smooth snake snap snow soap soccer sock soda soft
solid solve soon sorry sort sound soup source space spare speak speed spell sphere spice spider spin spirit spoil
spoon sport spray spread spring stable staff stairs stamp stand state stay steak stem step stick still sting stone
stool story street strike stuff style submit such sudden sugar summer sunny super supply sure survey swamp swap
sweet swift swing switch symbol system table tackle talent talk tape target task tattoo taxi teach tell tenant tent
term test thank that theme theory there thing this three throw thumb ticket tiger tilt time tiny tired title toast
today tomato tone tool tooth topic torch toss total tower town trade train travel treat tree trend tribe trick trip
trophy truck truly trust truth tumble tuna turkey turn turtle twenty twice twin type unable undo unfair unfold unit
unlock until update uphold upper upset urban usage used useful vacant vacuum valid valley valve vapor vast vault
vendor venue verify very vessel video view violin visit visual vivid vocal voice volume vote voyage wagon wait wall
walnut want wash wasp waste wave wealth weasel weird west what wheat wheel where wide wild will window wink winner
winter wisdom wise wolf woman wonder wool word work worry worth wreck wrist write year yellow young zebra zero
"""
WORDS = tuple(_TEXT.split())
